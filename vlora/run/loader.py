"""Rows read, encoded ahead and made batches of; those that cannot be learned from are counted, or end the run."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs
import numpy as np

from .. import models
from ..build import Data
from ..cuts import find_cuts
from ..data.collate import collate
from ..data.packing import PackedSteps
from ..data.prefetch import WorkerPool
from ..data.rows import RowDataset
from ..data.sampler import LengthFn
from ..errors import LongRowError, SampleError
from ..recipe.schema import Recipe
from ..types import Batch, Cut, Example
from .consumed import mark_row

ROWS_OF_A_PACK = 4
"""Rows that are encoded ahead for each packed row."""


Encoded = Example | SampleError
"""A row as it was encoded, or why it was not."""


def _leave(example: Example) -> Example:
    return example


def _leave_batch(batch: Batch) -> Batch:
    return batch


@attrs.define(eq=False)
class DataLoader:
    """Reads the rows of one run.

    Attributes:
        recipe: The run's.
        data: Its rows, and what encodes them.
        workers: Threads that encode ahead.
        prepare: What they do with an encoded row besides, as `MlxVlmBackbone.prepare`.
        prepare_batch: What a thread does with a batch besides, as `MlxVlmBackbone.prepare_batch`.
        skipped: Why rows were passed over, in the order in which they were met, in every epoch anew.
        first_cuts: What was cut of the rows that were read before the first step.
    """

    recipe: Recipe
    data: Data
    workers: WorkerPool
    prepare: Callable[[Example], Example] = _leave
    prepare_batch: Callable[[Batch], Batch] = _leave_batch
    skipped: list[str] = attrs.field(factory=list, init=False)
    first_cuts: tuple[Cut, ...] = attrs.field(default=(), init=False)
    _n_told: int = attrs.field(default=0, init=False)

    def collate(self, rows: RowDataset, plan: Iterable[Sequence[Sequence[int]]], n_ahead: int) -> Iterator[list[Batch]]:
        """Encode the rows of `n_ahead` batches ahead, and make batches of them: a list for each of the plan's."""
        plan, drawn = itertools.tee(plan)
        indices = (index for batches in drawn for batch in batches for index in batch)
        size = self.recipe.train.batch_size
        encoded = self.workers.map(functools.partial(self._encode, rows), indices, n_ahead * size)
        read = ([list(itertools.islice(encoded, len(batch))) for batch in batches] for batches in plan)
        # The batches of the step after this one are made while the device works on this one.
        yield from map(self._judge, self.workers.map(self._make_batches, read, 1, is_next=True))

    def _judge(self, made: tuple[list[list[Encoded]], list[Batch]]) -> list[Batch]:
        """Give batches, whose turn it is, and pass over the rows beside them that cannot be learned from."""
        found, batches = made
        for row in itertools.chain.from_iterable(found):
            self._take_good(row)
        return batches

    def _make_batches(self, found: list[list[Encoded]]) -> tuple[list[list[Encoded]], list[Batch]]:
        """Make batches of the rows that were encoded, and give the rows that were read with them."""
        kept = [[row for row in rows if isinstance(row, Example)] for rows in found]
        size = self.recipe.train.batch_size
        return found, [self.prepare_batch(collate(rows, size)) for rows in kept if rows]

    def pack(self, rows: RowDataset, packed: PackedSteps, n_ahead: int) -> Iterator[list[Batch]]:
        """Encode the rows of about `n_ahead` batches ahead, and pack them."""
        n_ahead *= packed.batch_size * ROWS_OF_A_PACK
        encoded = self.workers.map(functools.partial(self._encode, rows), packed.indices(), n_ahead)
        return packed.steps(map(self._take_good, encoded))

    def measure(self) -> LengthFn:
        """Make what says how long rows are; a row's length is found once, whatever the number of epochs."""
        estimate, known = models.LengthEstimator(self.data.encoder), np.full(len(self.data.train), -1, dtype=np.int32)

        def measure(index: int) -> int:
            if known[index] < 0:
                try:
                    known[index] = estimate(self.data.train[index])
                except SampleError:
                    # No conversation in it: encoding says so in its turn.
                    known[index] = 0
            return int(known[index])

        size = self.recipe.train.batch_size
        return lambda indices: self.workers.map(measure, indices, self.recipe.data.prefetch * size)

    def skip(self, error: SampleError) -> None:
        """Count a row that cannot be learned from, or is too long, or end the run with it, as the recipe has it."""
        data = self.recipe.data
        if isinstance(error, LongRowError):
            if data.on_long_row == "raise":
                msg = f'{error}; with data.on_long_row = "cut" such rows are shortened, with "skip" left out'
                raise LongRowError(msg) from None
        elif data.on_bad_row == "raise":
            msg = f'{error}; with data.on_bad_row = "skip" such rows are left out'
            raise SampleError(msg) from None
        self.skipped.append(str(error))

    def peek(self, rows: RowDataset, indices: Iterable[int]) -> list[Example]:
        """Encode rows only to look at them: those that are passed over are not counted yet."""
        examples = self._keep_good(self._encode(rows, index) for index in indices)
        self.skipped.clear()
        return examples

    def drain_skipped(self) -> list[str]:
        """Give why rows were passed over since this was last asked."""
        new = self.skipped[self._n_told :]
        self._n_told = len(self.skipped)
        return new

    def prime(self, batches: Iterator[list[Batch]], n_steps: int, *, is_new: bool) -> Iterator[list[Batch]]:
        """Read now, before anything is validated, up to the first step that has a row to learn from.

        Args:
            batches: Of each step.
            n_steps: Steps to read at most, those of an epoch.
            is_new: Whether the run begins with them.

        Raises:
            SampleError: A row cannot be learned from; or, where such rows are skipped, a new run finds no other.
        """
        ahead: list[list[Batch]] = []
        for found in itertools.islice(batches, n_steps):
            ahead.append(found)
            if found:
                break
        self.first_cuts = tuple(find_cuts(itertools.chain.from_iterable(ahead)))
        if is_new and not ahead[-1]:
            msg = (
                f"{self.data.train.name}: none of the first {len(self.skipped)} rows that were read can be learned "
                f"from; the last one was {self.skipped[-1]}"
            )
            raise SampleError(msg)
        return itertools.chain(ahead, batches)

    def _encode(self, rows: RowDataset, index: int) -> Encoded:
        """Encode a row; its error is given back, to be raised in its turn."""
        try:
            row, sample = rows.read(index)
            if rows is not self.data.train:
                return self.prepare(self.data.encoder(sample))
            # Before its images are opened: a file that changes meanwhile is another one afterwards.
            mark = mark_row(index, row, sample)
            return attrs.evolve(self.prepare(self.data.encoder(sample)), mark=mark)
        except SampleError as error:
            return error

    def _keep_good(self, encoded: Iterable[Encoded]) -> list[Example]:
        return [example for example in map(self._take_good, encoded) if example is not None]

    def _take_good(self, found: Encoded) -> Example | None:
        if isinstance(found, Example):
            return found
        self.skip(found)
        return None
