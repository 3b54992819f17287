"""Validation: the loss of a batch, compiled without a gradient and without dropout, and its mean over batches. Pure."""

from collections.abc import Callable, Iterable
from typing import cast

import mlx.core as mx

from ..arguments import expect_type
from ..measured import Measured, add_measured
from ..memory.limits import naming_shortage
from ..types import Batch, Inputs, Targets, TrainState
from .accumulation import Sums, read_metrics, targets_for
from .arguments import check_loss
from .backbone import Backbone, Params
from .chunked_head import language_model_loss
from .objectives.objective import LossFn, Metrics, Objective
from .objectives.sft import loss_fn
from .ranks import Ranks
from .reference import Reference, lacks_reference
from .state import bound_params

Measures = tuple[mx.array, mx.array, Metrics]
"""f32[] summed loss, f32[] what it is divided by, and what an objective measures beside it."""


def make_eval_step(
    backbone: Backbone,
    *,
    loss: LossFn | Objective = loss_fn,
    reference: Reference | None = None,
    compiled: bool = True,
) -> Callable[[TrainState, Batch], tuple[mx.array, mx.array]]:
    """Make the validation step: the summed loss and its number of terms, without dropout.

    A function of its own, because a compiled function keeps the mode that it was traced in.

    Args:
        backbone: The model.
        loss: As for the training step.
        reference: As for the training step.
        compiled: False runs the same code eagerly.

    Returns:
        `step(state, batch) -> (f32[] sum, f32[] terms)`: of fine-tuning, nats and supervised tokens.
    """
    measure = make_measuring_step(backbone, loss=loss, reference=reference, compiled=compiled)

    def eval_step(state: TrainState, batch: Batch) -> tuple[mx.array, mx.array]:
        nll, n, _ = measure(state, batch)
        return nll, n

    return eval_step


def make_measuring_step(
    backbone: Backbone,
    *,
    loss: LossFn | Objective = loss_fn,
    reference: Reference | None = None,
    ranks: Ranks | None = None,
    compiled: bool = True,
) -> Callable[[TrainState, Batch], Measures]:
    """Make the validation step of `make_eval_step`, which gives what an objective measures beside the loss, too.

    With `ranks` each measures its own share of every batch; sums and counts are its own.
    """
    check_loss(loss)
    loss = (ranks or Ranks()).share_loss(loss)
    embed_param_names = backbone.embed_param_names()

    def sums(params: Params, inputs: Inputs, targets: Targets) -> Sums:
        with backbone.overrides():
            if reference is not None and lacks_reference(loss, targets):
                inputs, targets = reference.completed(inputs, targets)
            return language_model_loss(
                params,
                inputs.differentiable,
                backbone=backbone,
                loss=loss,
                inputs=inputs,
                targets=targets,
                is_trained=False,
            )

    run: Callable[[Params, Inputs, Targets], Sums] = mx.compile(sums) if compiled and backbone.is_traceable else sums

    def measuring_step(state: TrainState, batch: Batch) -> Measures:
        expect_type(state, TrainState, "the step, state", "give what init_state, or a training step, returned")
        with bound_params(backbone.module, {name: state.params[name] for name in embed_param_names}):
            inputs = Inputs(batch.tokens, *backbone.embed(batch))
        total, count, packed = run(state.params, inputs, targets_for(loss, batch, reference))
        return total, count, loss.unpack(packed) if isinstance(loss, Objective) else {}

    return measuring_step


def evaluate(
    eval_step: Callable[[TrainState, Batch], tuple[mx.array, mx.array]],
    state: TrainState,
    batches: Iterable[Batch] | Batch,
) -> tuple[float, int]:
    """Validate: (mean loss over its terms, number of supervised tokens) over all batches, or a single one.

    Raises:
        OutOfMemoryError: There is no memory for a batch.
    """
    if isinstance(batches, Batch):
        batches = [cast("Batch", batches)]
    nll, n_terms, n_supervised, _ = measure_sums(lambda *given: (*eval_step(*given), {}), state, batches)
    return nll / max(1.0, n_terms), n_supervised


def measure_sums(
    step: Callable[[TrainState, Batch], Measures], state: TrainState, batches: Iterable[Batch]
) -> tuple[float, float, int, Measured]:
    """Validate with a step of `make_measuring_step`, in sums.

    Returns:
        The summed loss, its number of terms, the number of supervised tokens, and sums of what is measured beside it.

    Raises:
        OutOfMemoryError: There is no memory for a batch.
    """
    nll = n_terms = 0.0
    n_supervised = 0
    measured: Measured = {}
    before: Measures | None = None

    def read(sums: Measures) -> None:
        nonlocal nll, n_terms, measured
        nll, n_terms = nll + float(sums[0]), n_terms + float(sums[1])
        measured = add_measured(measured, read_metrics(sums[2]))

    for batch in batches:
        with naming_shortage("validation", batch):
            sums = step(state, batch)
            mx.async_eval(sums)
            if before is not None:
                read(before)
        # A stand-in only takes part in what ranks do together.
        before = None if batch.is_stand_in else sums
        n_supervised += 0 if batch.is_stand_in else batch.n_supervised
    if before is not None:
        read(before)
    return nll, n_terms, n_supervised, measured
