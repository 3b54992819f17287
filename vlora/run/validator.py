"""The loss on held-out rows: the same rows every time, batched as the rows to train on are."""

import itertools
import math
from collections.abc import Callable, Iterator

import attrs

from .. import models
from ..cuts import CutCounts, find_cuts
from ..data.loader import DataLoader
from ..data.packing import packed_eval_source
from ..data.rows import RowDataset
from ..data.sampler import epoch_batches, sort_batches
from ..errors import NonFiniteError
from ..estimate.foresight import foresee
from ..measured import Measured, add_measured
from ..memory.limits import naming_shortage
from ..recipe.schema import Recipe
from ..train.eval_step import Measures, make_measuring_step, measure_sums
from ..train.objectives.named import find_objective
from ..train.ranks import Ranks
from ..train.reference import Reference
from ..types import Batch, TrainState
from .batches import agreeing, read_packed, share_rows


@attrs.frozen(kw_only=True)
class Validated:
    """What a validation has found.

    Attributes:
        loss: Mean loss over its terms: of fine-tuning, nats per supervised token.
        n_tokens: Supervised tokens.
        n_rows: Rows that were read.
        cuts: Those of them that were cut.
        measured: What an objective measures beside the loss.
    """

    loss: float
    n_tokens: int
    n_rows: int
    cuts: CutCounts
    measured: Measured


@attrs.define(eq=False)
class Validator:
    """Validates states on the same rows every time.

    Attributes:
        recipe: The run's.
        rows: The rows to validate on.
        loader: Reads them.
        encoder: Says how long packed rows are, where several ranks share them out.
        backbone: The model.
        reference: What the objective compares with, where rows do not bring it.
        ranks: Those that validate together, each its share of the rows.
        n_planned: Ranks for which the batches are planned.
        has_told_cuts: Whether it was said which of the rows are cut.
    """

    recipe: Recipe
    rows: RowDataset
    loader: DataLoader
    encoder: models.Encoder
    backbone: models.MlxVlmBackbone
    reference: Reference | None = None
    ranks: Ranks = attrs.field(factory=Ranks)
    n_planned: int = 1
    has_told_cuts: bool = attrs.field(default=False, init=False)
    _step: Callable[[TrainState, Batch], Measures] = attrs.field(init=False)
    _plan: list[list[int]] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """Draw the rows, once: the first ones of a sorted set would not stand for it."""
        train = self.recipe.train
        self._step = make_measuring_step(
            self.backbone,
            loss=find_objective(train.objective, self.recipe.preference),
            reference=self.reference,
            ranks=self.ranks,
        )
        n_rows = train.batch_size * self.n_planned
        plan = epoch_batches(len(self.rows), n_rows, seed=train.seed, epoch=0, shuffle=True)
        self._plan = plan[: self._n_batches]
        if self.recipe.data.streaming:
            # Rows of a stream are read as they stand in its files: a group of a Parquet file once.
            self._plan = sort_batches(self._plan)

    @property
    def _n_batches(self) -> int | None:
        found = self.recipe.train.val_batches
        return None if found == -1 else found

    def measure(self, state: TrainState, should_stop: Callable[[], bool]) -> Validated | None:
        """Find the mean loss of a state.

        Args:
            state: The state.
            should_stop: Asked before each batch; True ends the validation, on all ranks.

        Returns:
            What was found; None if it was ended before.

        Raises:
            NonFiniteError: The loss is not finite.
            VloraError: A row cannot be read, or there is no memory for a batch.
        """
        n_rows, cuts = 0, CutCounts()

        def batches() -> Iterator[Batch]:
            nonlocal n_rows, cuts
            for found in foresee(self.recipe, self.backbone, self._read()):
                if self._agree(should_stop()):
                    return
                n_rows += sum(batch.n_groups for batch in found if not batch.is_stand_in)
                cuts = cuts.add(list(find_cuts(found)))
                yield from found

        with naming_shortage("validation"):
            *own, measured = measure_sums(self._step, state, batches())
        total, n_terms, n_tokens, n_read, n_stopped = self.ranks.sum(*own, n_rows, float(should_stop()))
        if n_stopped:
            # Of some of the rows only, perhaps.
            return None
        loss = total / max(1.0, n_terms)
        if not math.isfinite(loss):
            msg = f"validation: the loss is {loss}; lower optim.learning_rate or set optim.grad_clip"
            raise NonFiniteError(msg)
        for text, others in self.ranks.gather_others((cuts.dumps(), dict(measured))):
            cuts, measured = cuts.join(CutCounts.loads(text)), add_measured(measured, others)
        return Validated(loss=loss, n_tokens=int(n_tokens), n_rows=int(n_read), cuts=cuts, measured=measured)

    def _agree(self, is_stopped: bool) -> bool:
        """Whether to leave off the validation here; ranks whose weights are divided go on or stop together."""
        if self.loader.stand_in is None:
            return is_stopped
        return agreeing(self.ranks)(is_stopped)

    def _read(self) -> Iterator[list[Batch]]:
        n_ahead = self.recipe.data.prefetch
        if self.recipe.train.batching == "packed":
            source = packed_eval_source(self.recipe, len(self.rows), self.n_planned, self._n_batches)
            packed = read_packed(self.loader, self.rows, source, self.encoder, self.ranks, self.n_planned, n_ahead)
            return itertools.islice(packed, self._n_batches)
        plan = ([indices] for indices in self._plan)
        n_rows, is_even = self.recipe.train.batch_size * self.n_planned, self.loader.stand_in is not None
        own = share_rows(self.recipe, self.rows, plan, self.ranks, n_rows, is_even=is_even)
        return self.loader.collate(self.rows, own, n_ahead)
