"""The validation step: the loss of a batch, compiled without a gradient and without dropout. Pure."""

from collections.abc import Callable

import mlx.core as mx

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
    """Make the validation step: the summed loss and the number of supervised tokens, without dropout.

    A function of its own, because a compiled function keeps the mode that it was traced in.

    Args:
        backbone: The model.
        loss: As for the training step.
        compiled: False runs the same code eagerly.

    Returns:
        `step(state, batch) -> (f32[] nats, f32[] tokens)`.
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
