"""Where a run's batches come from: rows shuffled, grouped by length or packed look the same to the loop."""

from collections.abc import Iterator
from typing import Protocol

import attrs

from ..data.packing import PackedSteps, packed_source
from ..data.rows import RowDataset
from ..data.sampler import step_batches, steps_per_epoch
from ..recipe.schema import Recipe
from ..train.schedules import count_steps
from ..types import Batch
from .loader import DataLoader


class BatchSource(Protocol):
    """The batches of a run, from the step on that it goes on with.

    Attributes:
        is_estimated: Whether the number of steps is known at the end only.
    """

    @property
    def is_estimated(self) -> bool:
        """Whether the number of steps is known at the end only."""

    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield the microbatches of each step; none where no row of a step can be learned from."""

    def n_steps(self, step: int) -> int:
        """Count the steps of the whole run, as far as it is known behind a step."""

    def position(self, step: int) -> str:
        """Say what a training state has to remember of the place behind a step; "" where the step says it."""


@attrs.frozen(eq=False, kw_only=True)
class PlannedSource:
    """Batches whose rows are known before they are read: a step's number says which they are.

    Attributes:
        batches: Microbatches, step by step.
        total: Steps of the whole run.
    """

    batches: Iterator[list[Batch]]
    total: int
    is_estimated: bool = False

    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield the microbatches of each step."""
        return self.batches

    def n_steps(self, step: int) -> int:
        """Count the steps of the whole run."""
        del step
        return self.total

    def position(self, step: int) -> str:
        """Say nothing: the step does."""
        del step
        return ""


@attrs.frozen(eq=False, kw_only=True)
class PackedSource:
    """Batches of packed rows, which are chosen while they are read.

    Attributes:
        batches: Microbatches, step by step.
        packed: How they are packed.
    """

    batches: Iterator[list[Batch]]
    packed: PackedSteps

    @property
    def is_estimated(self) -> bool:
        """Whether epochs end the run: how many steps they take shows while rows are packed."""
        return self.packed.n_steps is None

    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield the microbatches of each step."""
        return self.batches

    def n_steps(self, step: int) -> int:
        """Count the steps of the whole run, as far as it is known behind a step."""
        return self.packed.count_at(step)

    def position(self, step: int) -> str:
        """Say how far the rows were read behind a step, and which of them wait."""
        return self.packed.progress_at(step).dumps()


def make_source(recipe: Recipe, rows: RowDataset, loader: DataLoader, first: int, position: str | None) -> BatchSource:
    """Lay out the steps behind those that were done before, and read up to the first that has a row.

    Args:
        recipe: The recipe.
        rows: The rows to train on.
        loader: Reads them.
        first: Steps done before.
        position: What the training state remembers of them (`BatchSource.position`); None if nothing.

    Raises:
        SampleError: A row cannot be learned from, or none of a new run can.
        CheckpointError: The steps done before were of another kind.
    """
    train, data, n_rows = recipe.train, recipe.data, len(rows)
    # Rows of a whole step at least: while it runs nothing else makes room for more.
    n_ahead = max(data.prefetch, train.gradient_accumulation_steps)
    packed = packed_source(recipe, n_rows, first, position)
    if packed is not None:
        batches = loader.pack(rows, packed, n_ahead)
        # How many steps the epochs take shows with the first one.
        return PackedSource(batches=loader.prime(batches, 1, is_new=not first), packed=packed)
    n_steps = count_steps(train, n_rows)
    plan = step_batches(
        n_rows,
        train.batch_size,
        accumulation=train.gradient_accumulation_steps,
        seed=train.seed,
        shuffle=data.shuffle,
        n_steps=n_steps,
        first_step=first,
        measure=loader.measure() if train.batching == "grouped" else None,
    )
    per_epoch = steps_per_epoch(n_rows, train.batch_size, train.gradient_accumulation_steps)
    batches = loader.collate(rows, plan, n_ahead)
    return PlannedSource(batches=loader.prime(batches, per_epoch, is_new=not first), total=n_steps)
