"""What a loop of one's own gives to the step: slips are named before anything is traced."""

import math
from collections.abc import Collection, Sequence
from typing import Any, cast

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np

from ..arguments import expect_type
from ..system.nouns import with_noun
from ..types import Batch, TrainState
from .objectives.objective import Objective


def check_training(optimizer: object, loss: object, max_grad_norm: float | None, undecayed: Collection[str]) -> None:
    """Check what a training step is made of.

    Raises:
        TypeError: The optimizer or the loss is none, or nothing says how much the optimizer lets parameters decay.
        ValueError: The largest norm is not above 0.
    """
    expect_type(optimizer, optim.Optimizer, "make_train_step, optimizer", "give one as make_optimizer makes it")
    check_loss(loss)
    if undecayed and not hasattr(optimizer, "weight_decay"):
        msg = (
            f"make_train_step, optimizer: found {type(optimizer).__name__}, which has no attribute weight_decay, and "
            f"{with_noun(len(undecayed), 'parameter')} in undecayed; keep its weight decay there, or leave them out"
        )
        raise TypeError(msg)
    if max_grad_norm is not None and not max_grad_norm > 0:
        msg = f"make_train_step, max_grad_norm: found {max_grad_norm}; give a norm above 0, or None to clip nothing"
        raise ValueError(msg)


def as_batches(microbatches: Batch | Sequence[Batch]) -> list[Batch]:
    """Give the microbatches of a step, which may be a single one."""
    return [cast("Batch", microbatches)] if isinstance(microbatches, Batch) else list(microbatches)


def check_loss(loss: object) -> None:
    """Check that a loss is a function or an objective.

    Raises:
        TypeError: It is neither, such as a name.
    """
    if not callable(loss):
        remedy = "give a function such as vlora.loss_fn, or an Objective; find_objective finds them by name"
        expect_type(loss, Objective, "the loss", remedy)


def check_step(state: object, microbatches: Batch | Sequence[Batch], learning_rate: Any) -> list[Batch]:
    """Check what a step is given, and give its microbatches; to look into an array would wait for the device.

    Raises:
        TypeError: The state, a microbatch or the rate is none.
        ValueError: The rate is negative, or not finite: the state would be lost.
    """
    expect_type(state, TrainState, "the step, state", "give what init_state, or the step before, returned")
    batches = as_batches(microbatches)
    for batch in batches:
        expect_type(batch, Batch, "the step, microbatches", "give a Batch, as collate makes it, or a list of them")
    if isinstance(learning_rate, mx.array):
        return batches
    number = (int, float, np.number)
    expect_type(learning_rate, number, "the step, learning_rate", "give a number, as a schedule gives for a step")
    if not (math.isfinite(learning_rate) and learning_rate >= 0):
        msg = f"the step, learning_rate: found {learning_rate}; give a finite number of 0 or more"
        raise ValueError(msg)
    return batches


def check_sums(found: Any) -> tuple[mx.array, mx.array]:
    """Return what a loss found; in a trace, where what MLX says of another result does not name the loss.

    Raises:
        TypeError: It is no pair of a sum and a count.
    """
    is_pair = isinstance(found, (tuple, list)) and len(found) == len(("sum", "count"))
    if is_pair and isinstance(found[0], mx.array) and all(getattr(value, "ndim", 0) == 0 for value in found):
        return found[0], found[1]
    shapes = [getattr(value, "shape", type(value).__name__) for value in found] if is_pair else type(found).__name__
    msg = f"the loss returned {shapes}; return (the sum of the losses, what it is divided by), both arrays of shape ()"
    raise TypeError(msg)
