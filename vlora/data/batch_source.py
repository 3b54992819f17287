"""Where a run's batches come from: rows shuffled, grouped, packed or streamed look the same to the loop. Pure."""

from collections.abc import Iterator
from typing import Protocol

import attrs

from ..types import Batch


class BatchSource(Protocol):
    """The batches of a run, from its first step or from the one at which it resumes.

    Attributes:
        is_estimated: Whether the number of steps is known at the end only.
    """

    @property
    def is_estimated(self) -> bool:
        """Whether the number of steps is known at the end only."""

    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield the microbatches of each step; none where no row of a step can be learned from."""

    def n_steps(self, step: int) -> int:
        """Count the steps of the whole run, as far as their number is known after a step."""

    def position(self, step: int) -> str:
        """Return what a training state has to store to resume after a step; "" if the step's number is enough."""

    def n_epochs(self, step: int) -> int:
        """Count the epochs that are over with a step; 0 of streams, whose sources have epochs of their own."""

    def ended(self, step: int) -> "tuple[EndedEpoch, ...]":
        """Give the epochs of streams that have ended with a step; of other rows it is known when they will."""


@attrs.frozen(kw_only=True)
class EndedEpoch:
    """An epoch of a stream that has ended.

    Attributes:
        epoch: Epochs of the stream that are over.
        n_rows: Rows of this one, those of all ranks together.
        source: Which of a mixture's sources the stream is; None of a single one.
    """

    epoch: int
    n_rows: int
    source: int | None = None


@attrs.frozen(eq=False, kw_only=True)
class PlannedSource:
    """Batches whose rows are known before they are read: a step's number says which they are.

    Attributes:
        batches: Microbatches, step by step.
        total: Steps of the whole run.
        per_epoch: Steps of an epoch.
    """

    batches: Iterator[list[Batch]]
    total: int
    per_epoch: int
    is_estimated: bool = False

    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield the microbatches of each step."""
        return self.batches

    def n_steps(self, step: int) -> int:
        """Count the steps of the whole run."""
        del step
        return self.total

    def position(self, step: int) -> str:
        """Return "": the step's number is enough."""
        del step
        return ""

    def n_epochs(self, step: int) -> int:
        """Count the epochs that are over with a step."""
        return step // self.per_epoch

    def ended(self, step: int) -> tuple[EndedEpoch, ...]:
        """Return (): how many rows an epoch has is known from the beginning."""
        del step
        return ()


class StreamedSteps(Protocol):
    """Steps of a run whose rows are streamed, packed or not."""

    @property
    def n_steps(self) -> int:
        """Steps of the whole run."""

    def ended(self, step: int) -> tuple[EndedEpoch, ...]:
        """Give the epochs that have ended with a step."""

    def dumps(self, step: int) -> str:
        """Write the progress after a step."""


@attrs.frozen(eq=False, kw_only=True)
class StreamSource:
    """Batches of streamed rows.

    Attributes:
        batches: Microbatches, step by step.
        steps: How they are planned.
    """

    batches: Iterator[list[Batch]]
    steps: StreamedSteps
    is_estimated: bool = False

    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield the microbatches of each step."""
        return self.batches

    def n_steps(self, step: int) -> int:
        """Count the steps of the whole run."""
        del step
        return self.steps.n_steps

    def n_epochs(self, step: int) -> int:
        """Return 0: each source has epochs of its own."""
        del step
        return 0

    def ended(self, step: int) -> tuple[EndedEpoch, ...]:
        """Give the epochs that have ended with a step."""
        return self.steps.ended(step)

    def position(self, step: int) -> str:
        """Return how far the streams were read after a step, and which rows wait."""
        return self.steps.dumps(step)
