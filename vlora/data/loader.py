"""Rows read, encoded ahead and made batches of; those that cannot be learned from are counted, or end the run. Pure."""

import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import SupportsIndex

import attrs

from ..cuts import find_cuts
from ..errors import SampleError
from ..ops.buckets import SMALLEST_BUCKET
from ..recipe.schema import DataSection
from ..types import Batch, Cut, Example, RowMark, Sample
from .collate import collate
from .drawn_rows import DrawnRows
from .examples import raise_unless_skipped
from .pack_plan import PackPlan
from .prefetch import WorkerPool
from .rows import RowDataset
from .values import Row

ROWS_OF_A_PACK = 4
"""Rows that are encoded ahead for each packed row."""


Encoded = tuple[Example, ...] | SampleError
"""A row's examples, or why there are none."""


def _unmarked(index: int, row: Row, sample: Sample) -> None:
    del index, row, sample


def flatten(rows: list[tuple[Example, ...]]) -> list[Example]:
    """Give the examples of all rows."""
    return list(itertools.chain.from_iterable(rows))


def _unprepared(batch: Batch) -> Batch:
    return batch


@attrs.define(eq=False, kw_only=True)
class DataLoader:
    """Reads the rows of one run: those to train on and those to validate on.

    Attributes:
        train: The rows to train on.
        drawn: Where the rows to train on are put where they are streamed.
        data: The recipe's section; it says what becomes of rows that cannot be learned from.
        batch_size: Rows of a batch.
        stand_in: Makes the batch that a rank without a row runs; without one there is no batch then.
        examples_per_row: Examples of a row, as a rule at most: what is made of a batch has room for them.
        multiple: Says what a padded length is a multiple of, from the tokens of each example and the batch's rows.
        workers: Threads that encode ahead.
        encode: Makes the examples of a sample; called by several threads. Several of them belong together, such as the
            two answers of a pair: they stay in one microbatch, whatever the order of the rows.
        mark: Says what a row to train on is known by; called before its images are opened.
        join: Makes the examples of a microbatch of those of its rows; rows that are packed are not joined.
        prepare_batch: What a thread does with a batch besides.
        skipped: Why rows were skipped, in the order in which they were met, in every epoch anew.
        first_cuts: What was cut of the rows that were read before the first step.
    """

    train: RowDataset
    data: DataSection
    batch_size: int
    workers: WorkerPool
    encode: Callable[[Sample], tuple[Example, ...]]
    mark: Callable[[int, Row, Sample], RowMark | None] = _unmarked
    prepare_batch: Callable[[Batch], Batch] = _unprepared
    drawn: DrawnRows | None = None
    join: Callable[[list[tuple[Example, ...]]], list[Example]] = flatten
    stand_in: Callable[[], Batch] | None = None
    examples_per_row: int = 1
    multiple: Callable[[Sequence[int], int], int] | None = None
    skipped: list[str] = attrs.field(factory=list, init=False)
    first_cuts: tuple[Cut, ...] = attrs.field(default=(), init=False)
    _n_told: int = attrs.field(default=0, init=False)
    _n_encoded: Iterator[int] = attrs.field(factory=itertools.count, init=False)

    def collate(
        self, rows: RowDataset, plan: Iterable[Sequence[Sequence[SupportsIndex]]], n_ahead: int
    ) -> Iterator[list[Batch]]:
        """Encode the rows of `n_ahead` batches ahead, and make batches of them: a list for each of the plan's."""
        plan, drawn = itertools.tee(plan)
        indices = (index for batches in drawn for batch in batches for index in batch)
        encoded = self.workers.map(functools.partial(self._encode, rows), indices, n_ahead * self.batch_size)
        read = ([list(itertools.islice(encoded, len(batch))) for batch in batches] for batches in plan)
        # The batches of the step after this one are made while the device works on this one.
        yield from map(self._judge, self.workers.map(self._make_batches, read, 1, is_next=True))

    def _judge(self, made: tuple[list[list[Encoded]], list[Batch]]) -> list[Batch]:
        """Return the batches of a step that is due, and skip its rows that cannot be learned from."""
        found, batches = made
        for row in itertools.chain.from_iterable(found):
            self._take_good(row)
        return batches

    def _make_batches(self, found: list[list[Encoded]]) -> tuple[list[list[Encoded]], list[Batch]]:
        """Make batches of the rows that were encoded, and give the rows that were read with them."""
        n_rows = self.batch_size * self.examples_per_row
        kept = [self.join([row for row in rows if isinstance(row, tuple)]) for rows in found]
        made = [self._collate(examples, max(n_rows, len(examples))) if examples else self.stand_in for examples in kept]
        batches = [batch() if callable(batch) else batch for batch in made if batch is not None]
        return found, [self.prepare_batch(batch) for batch in batches]

    def _collate(self, examples: list[Example], n_rows: int) -> Batch:
        counts = [len(example.tokens) for example in examples]
        multiple = SMALLEST_BUCKET if self.multiple is None else self.multiple(counts, n_rows)
        return collate(examples, n_rows, multiple=multiple)

    def read(self, rows: RowDataset, indices: Iterable[int], n_ahead: int) -> Iterator[tuple[Example, ...] | None]:
        """Encode rows ahead, and give the examples of each in its turn; None of those that are skipped."""
        return map(self._take_good, self.workers.map(functools.partial(self._encode, rows), indices, n_ahead))

    def pack(self, rows: RowDataset, packed: PackPlan, n_ahead: int) -> Iterator[list[Batch]]:
        """Encode the rows of about `n_ahead` batches ahead, and pack them."""
        return packed.steps(self.read(rows, packed.indices(), n_ahead * packed.batch_size * ROWS_OF_A_PACK))

    def skip(self, error: SampleError) -> None:
        """Count a row that cannot be learned from, or is too long; or raise, as the recipe has it."""
        raise_unless_skipped(error, self.data)
        self.skipped.append(str(error))

    def drain_skipped(self) -> list[str]:
        """Give why rows were skipped since this was last asked."""
        new = self.skipped[self._n_told :]
        self._n_told = len(self.skipped)
        return new

    def prime(
        self,
        batches: Iterator[list[Batch]],
        n_steps: int,
        *,
        is_new: bool,
        agree: Callable[[bool], bool] = lambda is_found: is_found,
    ) -> Iterator[list[Batch]]:
        """Read now, before anything is validated, up to the first step that has a row to learn from.

        Args:
            batches: Of each step.
            n_steps: Steps to read at most, those of an epoch.
            is_new: Whether the run begins with them.
            agree: Is told whether such a step was found, and says whether one was on any of several ranks.

        Raises:
            SampleError: A row cannot be learned from; or, where such rows are skipped, a new run finds no other.
        """
        ahead: list[list[Batch]] = []
        is_found = False
        for found in itertools.islice(batches, n_steps):
            ahead.append(found)
            is_found = any(not batch.is_stand_in for batch in found)
            if is_found:
                break
        self.first_cuts = tuple(find_cuts(itertools.chain.from_iterable(ahead)))
        if not agree(is_found) and is_new:
            last = f"; the last one was {self.skipped[-1]}" if self.skipped else ""
            n_read = len(self.skipped)
            msg = f"{self.train.name}: none of the first {n_read} rows that were read can be learned from{last}"
            raise SampleError(msg)
        return itertools.chain(ahead, batches)

    def _encode(self, rows: RowDataset, row: SupportsIndex) -> Encoded:
        """Encode a row; return its error, which is raised when the row is due."""
        index = operator.index(row)
        try:
            values, sample = rows.read(index)
            # Before its images are opened: a file that changes meanwhile is another one afterwards.
            mark = self.mark(index, values, sample) if rows is self.train else None
            with rows.locating(index):
                first, *others = self.encode(sample)
        except SampleError as error:
            return error
        # A mixture may have a row more than once in a microbatch.
        group = next(self._n_encoded) if others else None
        if mark is not None:
            mark = attrs.evolve(mark, n_tokens=sum(len(example.tokens) for example in (first, *others)))
        return (attrs.evolve(first, mark=mark, group=group), *(attrs.evolve(other, group=group) for other in others))

    def _take_good(self, found: Encoded) -> tuple[Example, ...] | None:
        if isinstance(found, tuple):
            return found
        self.skip(found)
        return None
