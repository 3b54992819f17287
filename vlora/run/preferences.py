"""What a run over preferences compares with, and whether the two are the same before its first step."""

import itertools
import math
from typing import cast

import attrs
import mlx.core as mx
from mlx.utils import tree_flatten

from ..data.collate import collate
from ..errors import PreferenceError
from ..memory.limits import naming_shortage
from ..train.eval_step import make_measuring_step
from ..train.objectives.named import find_objective
from ..train.objectives.objective import Objective
from ..train.objectives.preference import find_answers, find_reference
from ..train.reference import Reference
from ..types import Batch, Targets
from .context import RunContext

NATS_PER_TOKEN = {mx.float32: 1e-3, mx.float16: 0.02, mx.bfloat16: 0.1}
"""By how much the log-probability of a token may differ from the reference's, by rounding alone."""

LOSS_TOLERANCE = {mx.float32: 1e-3, mx.float16: 0.05, mx.bfloat16: 0.1}
"""By how much a loss may differ from its own value, as a share."""

ROWS_READ = 32


@naming_shortage("comparing the model with its reference")
def check_start(run: RunContext, reference: Reference | None) -> None:
    """Check that nothing has been learned before the first step: answers are as likely as in the reference.

    Each loss has its own value then (ln 2 of "sigmoid", 1 of "hinge", 1 / (4 beta^2) of "ipo"), and margins are none.

    Args:
        run: A run whose objective compares with a reference; its model's state is that before the first step.
        reference: What it is compared with; None if examples bring its log-probabilities.

    Raises:
        PreferenceError: The model is not its reference.
    """
    recipe = run.recipe
    loss = cast("Objective", find_objective(recipe.train.objective, recipe.preference))
    batch = _first_batch(run)
    if batch is None:
        return
    measured = _measure(run, batch, loss, reference)
    dtype = _find_dtype(run, batch)
    if measured.distance > NATS_PER_TOKEN[dtype] or not _is_close(measured, LOSS_TOLERANCE[dtype]):
        msg = (
            f"before the first step answers are not as likely as in the model that training starts from: up to "
            f"{measured.distance:.3g} nats per token apart, and the loss is {measured.loss:.6g} where it would be "
            f"{measured.own:.6g}; kept log-probabilities of another model lie in features.path (remove them), or the "
            "model is not the same twice"
        )
        raise PreferenceError(msg)


@attrs.frozen
class _Measured:
    """A microbatch before the first step.

    Attributes:
        loss: Its loss.
        own: The loss where the model is its own reference.
        distance: The largest difference to the reference of any answer, in nats per token.
    """

    loss: float
    own: float
    distance: float


def _is_close(measured: _Measured, share: float) -> bool:
    return math.isclose(measured.loss, measured.own, rel_tol=share, abs_tol=1e-5)


def _measure(run: RunContext, batch: Batch, loss: Objective, reference: Reference | None) -> _Measured:
    def with_own(logprobs: mx.array, targets: Targets) -> Targets:
        """Take the model itself as the reference."""
        return targets._replace(columns={**targets.columns, **find_reference(logprobs, targets)})

    def own(logprobs: mx.array, targets: Targets) -> tuple[mx.array, mx.array]:
        return loss.function(logprobs, with_own(logprobs, targets))

    def measure(logprobs: mx.array, targets: Targets) -> dict[str, tuple[mx.array, mx.array]]:
        one = mx.array(1.0)
        answers = find_answers(logprobs, targets)
        distance = mx.abs(answers.ratios / mx.maximum(answers.lengths, 1)).max()
        return {"loss": loss.function(logprobs, targets), "distance": (distance, one)}

    watched = Objective(own, loss.columns, measure, ("loss", "distance"), has_reference=True)
    step = make_measuring_step(run.backbone, loss=watched, reference=reference, compiled=False)
    total, count, metrics = step(run.loop.state, batch)
    sums = {name: float(value[0]) / max(1.0, float(value[1])) for name, value in metrics.items()}
    return _Measured(sums["loss"], float(total) / max(1.0, float(count)), sums["distance"])


def _first_batch(run: RunContext) -> Batch | None:
    """Make a microbatch of the first rows that can be learned from; None if there is none."""
    rows = list(itertools.islice(run.first_examples(ROWS_READ), run.recipe.train.batch_size))
    examples = run.loader.join(
        [
            row if len(row) == 1 else tuple(attrs.evolve(example, group=number) for example in row)
            for number, row in enumerate(rows)
        ]
    )
    return run.backbone.prepare_batch(collate(examples)) if examples else None


def _find_dtype(run: RunContext, batch: Batch) -> mx.Dtype:
    """Find the type in which the language model computes."""
    leaves = [value for _, value in tree_flatten(run.backbone.embed(batch)[0])]
    found = {value.dtype for value in leaves} & NATS_PER_TOKEN.keys()
    return max(found, key=lambda dtype: NATS_PER_TOKEN[dtype], default=mx.float32)
