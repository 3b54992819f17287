"""Validation: the loss of a batch, compiled without a gradient and without dropout, and its mean over batches. Pure."""

from collections.abc import Callable, Iterable

import mlx.core as mx

from ..memory.limits import naming_shortage
from ..types import Batch, Inputs, Targets, TrainState
from .backbone import Backbone, Params
from .chunked_head import language_model_loss
from .objectives.objective import LossFn, Objective
from .objectives.sft import loss_fn
from .state import bound_params
from .step import Sums, targets_for


def make_eval_step(
    backbone: Backbone, *, loss: LossFn | Objective = loss_fn, compiled: bool = True
) -> Callable[[TrainState, Batch], Sums]:
    """Make the validation step: the summed loss and its number of terms, without dropout.

    A function of its own, because a compiled function keeps the mode that it was traced in.

    Args:
        backbone: The model.
        loss: As for the training step.
        compiled: False runs the same code eagerly.

    Returns:
        `step(state, batch) -> (f32[] sum, f32[] terms)`: of fine-tuning, nats and supervised tokens.
    """
    embed_param_names = backbone.embed_param_names()

    def sums(params: Params, inputs: Inputs, targets: Targets) -> Sums:
        with backbone.overrides():
            return language_model_loss(
                params,
                inputs.differentiable,
                backbone=backbone,
                loss=loss,
                inputs=inputs,
                targets=targets,
                is_trained=False,
            )

    run = mx.compile(sums) if compiled and backbone.is_traceable else sums

    def eval_step(state: TrainState, batch: Batch) -> Sums:
        with bound_params(backbone.module, {name: state.params[name] for name in embed_param_names}):
            inputs = Inputs(batch.tokens, *backbone.embed(batch))
        nll, n = run(state.params, inputs, targets_for(loss, batch))
        return nll, n

    return eval_step


def evaluate(
    eval_step: Callable[[TrainState, Batch], tuple[mx.array, mx.array]],
    state: TrainState,
    batches: Iterable[Batch],
) -> tuple[float, int]:
    """Validate: (mean loss over its terms, number of supervised tokens) over all batches.

    Raises:
        OutOfMemoryError: There is no memory for a batch.
    """
    nll = n_terms = 0.0
    n_supervised = 0
    before: tuple[mx.array, mx.array] | None = None
    for batch in batches:
        with naming_shortage("validation", batch):
            sums = eval_step(state, batch)
            mx.async_eval(sums)
            if before is not None:
                nll, n_terms = nll + float(before[0]), n_terms + float(before[1])
        before, n_supervised = sums, n_supervised + batch.n_supervised
    if before is not None:
        nll, n_terms = nll + float(before[0]), n_terms + float(before[1])
    return nll / max(1.0, n_terms), n_supervised
