"""The gradients of a step that is not taken."""

from collections.abc import Sequence

import mlx.core as mx

from ..types import Batch, StepOutput, TrainState
from .backbone import Params
from .clipping import clip_by_global_norm
from .step import TrainStep


def step_gradients(
    step: TrainStep, state: TrainState, microbatches: Batch | Sequence[Batch]
) -> tuple[Params, StepOutput]:
    """Compute the gradients of a step without taking it: to look at them, or for an optimizer of your own.

    Args:
        step: As `make_train_step` makes it; a shape that the step has traced is not traced again.
        state: What the gradients are of.
        microbatches: As for the step.

    Returns:
        The mean gradient by parameter name, float32, not clipped, and what the step would have measured.
    """
    total = step.accumulate(state, microbatches)
    means, norm = clip_by_global_norm(step.unpack(total.gradients), None, mx.maximum(total.count, 1))
    return {name: means[name] for name in state.params}, total.output(norm)
