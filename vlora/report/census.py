"""Counts all rows of a recipe as training sees them; no weights are loaded, and pictures are decoded if asked."""

import functools
import hashlib
import re
from collections.abc import Callable, Iterator

import attrs

from .. import models
from ..build import Data, load_rows
from ..cuts import CutCounts
from ..data.prefetch import WorkerPool, count_workers
from ..data.rows import RowDataset
from ..errors import LongRowError, SampleError
from ..facts import Columns, TemplateUse
from ..recipe.schema import Recipe
from ..types import Cut, Sample
from .tally import Answers, Repeats, RowNumbers

ROWS_AHEAD = 8
"""Rows per thread that are counted ahead."""

_VARIABLE = re.compile(r"'[^']*'|\"[^\"]*\"|(?:\S*[\d/]\S*?|\S+\.\w{2,5})(?=[:;,.)]*(?:\s|$))")
"""Parts of reasons that differ between rows: quoted values, numbers, paths and file names."""


def _name_number(number: int) -> str:
    return f"row {number}"


@attrs.define
class Refusal:
    """Rows that are refused for one reason.

    Attributes:
        first: The full reason of the first row.
        n_rows: Number of rows.
    """

    first: str
    n_rows: int = 0


@attrs.define(kw_only=True)
class Census:
    """The counts of one data set so far.

    Attributes:
        name: The data set's.
        n_rows: All its rows.
        template: What writes the conversations.
        method: How tokens of images are counted.
        decodes: Whether pictures are decoded, so that rows with damaged ones are refused, too.
        columns: Which columns of the rows are used, and which are not; known once all rows are counted.
        n_seen: Rows counted so far.
        n_tokens: Tokens that are kept of them, those of images included.
        n_image_tokens: Those that stand for images.
        n_supervised: Those that are learned.
        n_images: Images.
        longest: Tokens of the longest row, before it is cut.
        longest_source: That row.
        cuts: Rows that are cut.
        refused: Rows that cannot be learned from, by reason.
        left_out: Rows longer than data.max_seq_length, where data.on_long_row = "skip" leaves them out.
        n_duplicates: Rows equal to an earlier one.
        first_duplicate: The first row equal to an earlier one, and that one, in words; empty if there is none.
        by_source: Rows that can be learned from, and their tokens, of each source of a mixture.
        name_number: Names a row by its number.
        equal: Rows equal in all their text and in the files, or bytes, of their images.
        numbers: Of each row that can be learned from.
        images: Images by their content, where they are looked at.
        answers: The last answer of each row.
    """

    name: str
    n_rows: int
    template: TemplateUse
    method: str
    decodes: bool = False
    columns: Columns = attrs.field(factory=Columns)
    n_seen: int = 0
    n_tokens: int = 0
    n_image_tokens: int = 0
    n_supervised: int = 0
    n_images: int = 0
    longest: int = 0
    longest_source: str = ""
    cuts: CutCounts = attrs.field(factory=CutCounts)
    refused: dict[str, Refusal] = attrs.field(factory=dict)
    left_out: int = 0
    n_duplicates: int = 0
    first_duplicate: str = ""
    by_source: dict[str, tuple[int, int]] = attrs.field(factory=dict)
    name_number: Callable[[int], str] = attrs.field(default=_name_number, repr=False)
    equal: Repeats = attrs.field(factory=Repeats, repr=False)
    numbers: RowNumbers = attrs.field(factory=RowNumbers, repr=False)
    images: Repeats = attrs.field(factory=Repeats, repr=False)
    answers: Answers = attrs.field(factory=Answers, repr=False)

    @property
    def n_refused(self) -> int:
        """Rows that cannot be learned from."""
        return sum(refusal.n_rows for refusal in self.refused.values())

    def add(self, row: "_Counted") -> None:
        """Count a row."""
        self.n_seen += 1
        if row.fingerprint is not None:
            earlier = self.equal.add(row.fingerprint, row.index)
            self.n_duplicates += earlier != row.index
            if earlier != row.index and not self.first_duplicate:
                self.first_duplicate = f"{row.source} equals {self.name_number(earlier)}"
        if row.is_left_out:
            self.left_out += 1
            return
        if row.problem is not None:
            self._refuse(row.problem, row.source)
            return
        self.n_tokens += row.n_tokens
        self.n_image_tokens += row.n_image_tokens
        self.n_supervised += row.n_supervised
        self.n_images += row.n_images
        if row.part is not None:
            rows, tokens = self.by_source.get(row.part, (0, 0))
            self.by_source[row.part] = rows + 1, tokens + row.n_tokens
        whole = self._keep(row)
        if row.cut is not None:
            self.cuts = self.cuts.add([row.cut])
        if whole > self.longest:
            self.longest, self.longest_source = whole, row.source

    def _keep(self, row: "_Counted") -> int:
        """Record a row's numbers and contents, and return the tokens of the whole row."""
        whole = row.n_tokens if row.cut is None else row.cut.n_tokens
        numbers = self.numbers
        numbers.rows.append(row.index)
        numbers.n_tokens.append(whole)
        numbers.n_kept.append(row.n_tokens)
        numbers.n_image_tokens.append(row.n_image_tokens)
        numbers.n_supervised.append(row.n_supervised)
        for width, height in row.image_sizes:
            numbers.widths.append(width)
            numbers.heights.append(height)
        for key in row.image_keys:
            self.images.add(key, row.index)
        if row.answer is not None:
            self.answers.add(row.answer)
        return whole

    def _refuse(self, problem: str, source: str) -> None:
        reason = _VARIABLE.sub("...", problem.removeprefix(source))
        self.refused.setdefault(reason, Refusal(problem)).n_rows += 1


@attrs.frozen(kw_only=True)
class _Counted:
    """One row, counted."""

    source: str
    index: int
    part: str | None = None
    fingerprint: int | None = None
    problem: str | None = None
    is_left_out: bool = False
    n_tokens: int = 0
    n_image_tokens: int = 0
    n_supervised: int = 0
    n_images: int = 0
    cut: Cut | None = None
    image_sizes: tuple[tuple[int, int], ...] = ()
    image_keys: tuple[int, ...] = ()
    answer: str | None = None


def count_rows(
    recipe: Recipe, data: Data | None = None, *, compares_images: bool = False, decodes: bool = False
) -> Iterator[Census]:
    """Count all rows of a recipe: those to train on, then those to validate on.

    Args:
        recipe: The recipe.
        data: As `load_rows` gives it; None to load it.
        compares_images: Read the beginning and the end of each image, by which equal ones are found.
        decodes: Decode each image, as training does; without it their headers are read.

    Yields:
        The counts of a data set before its first row and after every row: one object, which goes on counting.

    Raises:
        VloraError: The recipe names something that is not there.
    """
    data = load_rows(recipe) if data is None else data
    data.encoder.prepare(data.train.first_samples())
    measure = models.RowMeasurer(data.encoder)
    template, method = data.encoder.template_use(), measure.describe()
    n_workers = count_workers(recipe.data.workers)
    count = _Count(
        measure=measure,
        encoder=data.encoder if decodes else None,
        may_leave_out=recipe.data.on_long_row == "skip",
        compares_images=compares_images,
    )
    with WorkerPool(n_workers) as workers:
        for rows in (data.train, *([] if data.valid is None else [data.valid])):
            is_held_out = rows is not data.train and rows.name == data.train.name
            name = f"{rows.name}, held out to validate on" if is_held_out else rows.title
            census = Census(name=name, n_rows=len(rows), template=template, method=method, decodes=decodes)
            if rows.shares():
                census.name_number = rows.name_row
            yield census

            for row in workers.map(functools.partial(count, rows), range(len(rows)), ROWS_AHEAD * max(1, n_workers)):
                census.add(row)
                if census.n_seen == len(rows):
                    census.columns = rows.columns()
                yield census


@attrs.frozen(kw_only=True)
class _Count:
    """Counts one row.

    Attributes:
        measure: Counts its tokens by the headers of its images.
        encoder: Decodes its images; None where they are not decoded.
        may_leave_out: Whether rows that are too long are left out, and not refused.
        compares_images: Whether images are told apart by their content.
    """

    measure: models.RowMeasurer
    encoder: models.Encoder | None
    may_leave_out: bool
    compares_images: bool

    def __call__(self, rows: RowDataset, index: int) -> _Counted:
        """Count a row by its place among those of a data set."""
        own = int(rows.indices[index])
        source, fingerprint = rows.name_row(index), None
        try:
            sample = rows[index]
            fingerprint = _fingerprint(sample)
            with rows.locating(index):
                example = self.measure(sample)
                if self.encoder is not None:
                    self.encoder.open_images(sample)
        except SampleError as error:
            is_left_out = self.may_leave_out and isinstance(error, LongRowError)
            return _Counted(
                source=source, index=own, fingerprint=fingerprint, problem=str(error), is_left_out=is_left_out
            )
        return _Counted(
            source=source,
            index=own,
            fingerprint=fingerprint,
            part=rows.name_source(index),
            n_tokens=len(example.tokens),
            n_image_tokens=int(example.placeholders.sum()),
            n_supervised=int(example.supervised.sum()),
            n_images=len(sample.images),
            cut=example.cut,
            image_sizes=example.image_sizes,
            image_keys=_image_keys(sample) if self.compares_images else (),
            answer=next((turn.text.strip() for turn in reversed(sample.turns) if turn.role == "assistant"), None),
        )


def _image_keys(sample: Sample) -> tuple[int, ...]:
    digests = (hashlib.blake2b(models.sample_content(image), digest_size=8) for image in sample.images)
    return tuple(int.from_bytes(found.digest()) for found in digests)


def _fingerprint(sample: Sample) -> int:
    """Return a key of a row's text and images; files are identified by their paths, and not read."""
    compared = (sample.rejected, sample.is_wanted) if sample.rejected or sample.is_wanted is not None else ()
    written = repr((sample.turns, sample.tools, sample.objects, *compared))
    found = hashlib.blake2b(written.encode("utf-8", "surrogatepass"), digest_size=8)
    for image in sample.images:
        found.update(b"\0image" + models.name_content(image))
    return int.from_bytes(found.digest())
