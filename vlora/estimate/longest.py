"""The rows that decide what a run needs: the longest to train on, to validate on and to answer.

They are found by their text and the headers of their images; only those that are chosen are encoded.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import attrs
import numpy as np

from .. import models
from ..build import Data, load_rows
from ..cuts import CutCounts
from ..data.collate import collate, collate_packed
from ..data.examples import first_examples
from ..data.pairing import needs_mismatched
from ..data.prefetch import count_workers
from ..data.rows import RowDataset
from ..errors import LongRowError, SampleError, UnwantedAnswerError, VloraError
from ..recipe.schema import Recipe
from ..types import Batch, Example, Sample, Turn
from .comparing import compare_blanks, join_rows

Made = TypeVar("Made")

HALF = 0.5

TRIED = 2
"""Rows that are encoded for each one that is wanted: some may be bad."""
SPARE = 32
"""Bad rows that are passed over besides: the longest are those of which nothing is left to learn."""


@attrs.frozen(kw_only=True)
class LongestRows:
    """Full batches of the longest rows.

    Attributes:
        train: A microbatch.
        train_source: Where its rows come from.
        valid: A batch of a validation; None where no rows are held out.
        valid_source: Likewise.
        prompts: Questions that are answered together; none where none are answered.
        prompts_source: Likewise.
        bad: Why rows among the longest cannot be learned from, which are passed over; of those that are held out, too.
            Where only the first rows are looked at, of all of these; a row may be named twice.
        unread: Why rows of data.max_seq_length stand for those of the data; empty if these could be read.
    """

    train: Batch
    train_source: str
    valid: Batch | None = None
    valid_source: str = ""
    prompts: tuple[models.Prompt, ...] = ()
    prompts_source: str = ""
    bad: tuple[str, ...] = ()
    unread: str = ""


def blank_example(n_tokens: int, supervised_share: float) -> Example:
    """Make a row of text of a length, its last tokens supervised."""
    supervised = np.arange(n_tokens) >= n_tokens - max(1, round(n_tokens * supervised_share))
    supervised[0] = False
    return Example(
        source="a row of the plan",
        tokens=np.full(n_tokens, 2, dtype=np.int32),
        supervised=supervised,
        placeholders=np.zeros(n_tokens, dtype=np.bool_),
    )


def find_longest_rows(recipe: Recipe, options: models.AnswerOptions, n_rows: int | None = None) -> LongestRows:
    """Find the rows that decide what a run of a recipe needs.

    Args:
        recipe: The recipe.
        options: How it has questions answered.
        n_rows: How many of the first rows of each kind are looked at; None for all of them.
    """
    is_packed = recipe.train.batching == "packed"
    if is_packed and not has_held_out(recipe):
        return _blank_rows(recipe, options, "")
    try:
        data = load_rows(recipe)
        finder = _Finder(recipe, data, n_rows)
        train, source, bad = finder.find_batch(data.train)
        found = LongestRows(train=train, train_source=source, bad=bad)
        if data.valid is not None:
            valid, source, more = finder.find_batch(data.valid)
            prompts, asked = finder.find_prompts(data.valid, options.batch_size)
            found = attrs.evolve(found, valid=valid, valid_source=source, prompts=prompts, prompts_source=asked)
            found = attrs.evolve(found, bad=(*bad, *more))
    except VloraError as error:
        return _blank_rows(recipe, options, str(error).splitlines()[0])
    if not is_packed:
        return found
    blank = _blank_rows(recipe, options, "")
    return attrs.evolve(blank, prompts=found.prompts, prompts_source=found.prompts_source)


def has_held_out(recipe: Recipe) -> bool:
    """Whether a recipe names rows to validate on."""
    data = recipe.data
    return bool(data.valid_fraction or data.valid_split or data.valid_path)


def _blank_rows(recipe: Recipe, options: models.AnswerOptions, reason: str) -> LongestRows:
    """Give rows as long as they may be; packed ones are full whatever the data."""
    size, length = recipe.train.batch_size, recipe.data.max_seq_length
    if recipe.train.batching == "packed":
        packed = recipe.train.pack_length or length
        # A pack has room for what rows are joined to, too.
        n_examples = 4 if needs_mismatched(recipe) else 2
        row = compare_blanks(recipe, blank_example(packed // n_examples, HALF))
        pack = _stretch_first(join_rows(recipe, [row] * (2 // len(row))), packed)
        batch = collate_packed([pack] * size, size)
        source = f"full packs of {packed} tokens, half of them supervised"
    else:
        batch = collate(join_rows(recipe, [compare_blanks(recipe, blank_example(length, HALF))] * size))
        source = f"of data.max_seq_length, half of it supervised, since rows could not be read: {reason}"
    found = LongestRows(train=batch, train_source=source, unread=reason)
    if not has_held_out(recipe):
        return found
    found = attrs.evolve(found, valid=batch, valid_source=source)
    if not recipe.eval.answer_rows:
        return found
    n_asked = options.batch_size if recipe.eval.answer_rows == -1 else min(options.batch_size, recipe.eval.answer_rows)
    prompt = models.Prompt(blank_example(length, 1 / length), length - 1)
    asked = f"of data.max_seq_length, since rows could not be read: {reason}" if reason else "of data.max_seq_length"
    return attrs.evolve(found, prompts=(prompt,) * n_asked, prompts_source=asked)


def _stretch_first(pack: list[Example], length: int) -> list[Example]:
    """Let one example be much longer than the others together, for which attention over whole packs is computed.

    That needs the most. Examples of like lengths are computed in shorter rows.
    """
    short = max(2, length // (4 * len(pack)))
    lengths = [length - short * (len(pack) - 1), *[short] * (len(pack) - 1)]
    blanks = [blank_example(n_tokens, HALF) for n_tokens in lengths]
    return [
        attrs.evolve(example, tokens=blank.tokens, supervised=blank.supervised, placeholders=blank.placeholders)
        for example, blank in zip(pack, blanks, strict=True)
    ]


@attrs.frozen(eq=False)
class _Finder:
    """Finds the longest rows of some data."""

    recipe: Recipe
    data: Data
    n_rows: int | None

    def find_batch(self, rows: RowDataset) -> tuple[Batch, str, tuple[str, ...]]:
        """Make a full batch of the longest rows; describe where they come from, and what was passed over for them."""
        size = self.recipe.train.batch_size
        looked = rows if self.n_rows is None else attrs.evolve(rows, indices=rows.indices[: self.n_rows])
        found, bad = self._longest(looked, size, models.LengthEstimator(self.data.encoder), self.data.encode)
        examples = join_rows(self.recipe, found)
        cuts = CutCounts().add([example.cut for example in examples if example.cut is not None])
        told = (f"; of those {cuts.describe()}" if cuts.n_rows else "") + _describe_bad(bad)
        which = "all" if len(looked) == len(rows) and not rows.streams else "the first"
        source = f"the longest of {which} {len(looked):,} rows{told}"
        # So few that all of them are asked, and not the longest alone.
        every = [*bad, *([] if self.n_rows is None else self._find_bad(looked))]
        return collate(examples, max(size, len(examples))), source, tuple(map(str, every))

    def _find_bad(self, rows: RowDataset) -> list[SampleError]:
        """Find why rows cannot be learned from; no image is decoded."""
        measure, bad = models.RowMeasurer(self.data.encoder), list[SampleError]()
        for index in range(len(rows)):
            try:
                with rows.locating(index):
                    measure(rows[index])
            except SampleError as error:
                if not isinstance(error, UnwantedAnswerError):
                    bad.append(error)
        return bad

    def find_prompts(self, rows: RowDataset, size: int) -> tuple[tuple[models.Prompt, ...], str]:
        """Make the longest questions that are answered together; say where they come from."""
        wanted = self.recipe.eval.answer_rows
        if not wanted:
            return (), ""
        looked = rows if wanted == -1 else attrs.evolve(rows, indices=rows.indices[:wanted])
        if self.n_rows is not None:
            looked = attrs.evolve(looked, indices=looked.indices[: self.n_rows])
        estimate, questions = models.LengthEstimator(self.data.encoder), models.Questions(self.data.encoder)

        def measure(sample: Sample) -> int:
            if sample.is_wanted is False:
                # Not asked: it comes behind all that are.
                return -1
            asked, _ = models.split_question(sample)
            return estimate(attrs.evolve(asked, turns=(*asked.turns, Turn("assistant", (".",)))))

        try:
            found, bad = self._longest(looked, size, measure, questions)
        except (LongRowError, UnwantedAnswerError):
            # None of them is asked.
            return (), ""
        return tuple(question.prompt for question in found), f"the longest of {len(looked):,}{_describe_bad(bad)}"

    def _longest(
        self, rows: RowDataset, size: int, measure: Callable[[Sample], int], encode: Callable[[Sample], Made]
    ) -> tuple[list[Made], list[SampleError]]:
        """Encode the longest rows; give why rows were passed over for them, too.

        Also where a bad row ends the run they are passed over: the plan is that of the rows which are left once it is
        mended.

        Raises:
            SampleError: None of those that are tried can be read.
        """
        bad: list[SampleError] = []
        tried = _by_length(rows, measure, self.recipe.data.workers)[: TRIED * size + SPARE]
        longest = attrs.evolve(rows, indices=tried)
        examples = first_examples(longest, len(longest), encode, lambda _, error: bad.append(error))
        found: list[Made] = list(islice(examples, size))
        if not found:
            raise bad[-1]
        return found, [error for error in bad if not isinstance(error, UnwantedAnswerError)]


def _describe_bad(bad: Sequence[SampleError]) -> str:
    if not bad:
        return ""
    n_rows = "1 row that cannot be read" if len(bad) == 1 else f"{len(bad)} rows that cannot be read"
    return f", without {n_rows} ({bad[0]})"


def _by_length(rows: RowDataset, measure: Callable[[Sample], int], n_workers: int | None) -> Sequence[int]:
    """Return row numbers, the longest row first, from text and image headers alone; no image is decoded."""

    def find_length(index: int) -> int:
        try:
            return measure(rows[index])
        except SampleError:
            # The run decides about such rows; here they come last.
            return -1

    with ThreadPoolExecutor(max(1, count_workers(n_workers))) as pool:
        lengths = list(pool.map(find_length, range(len(rows)), chunksize=64))
    return [int(rows.indices[place]) for place in sorted(range(len(rows)), key=lambda place: -lengths[place])]
