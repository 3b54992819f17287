"""When things happen and how fast the learning goes, as functions of the step. Pure.

Steps are optimizer updates and count from 1.
"""

import functools
import math
from collections.abc import Callable

from ..arguments import expect_at_least
from ..data.sampler import steps_per_epoch
from ..recipe.schema import OptimSection, TrainSection
from .rules import Rules


def count_steps(train: TrainSection, n_rows: int) -> int:
    """Count the steps of a run: those of its epochs, or else `iters`.

    Args:
        train: The recipe's section.
        n_rows: Rows of the training set.
    """
    if train.epochs is None:
        return train.iters
    return train.epochs * steps_per_epoch(n_rows, train.batch_size, train.gradient_accumulation_steps)


def learning_rate_at(step: int, n_steps: int, optim: OptimSection, rules: Rules | None = None) -> float:
    """Give the learning rate of a step, as the schedules of transformers do.

    It rises linearly from 0, the rate of the first step, over the warmup, and then stays, or falls to zero in a line or
    half a cosine: the step after the last would have rate 0.

    Args:
        step: 1 to `n_steps`.
        n_steps: Steps of the run.
        optim: The recipe's section.
        rules: Those of the run; None for the newest.
    """
    expect_at_least(step, 1, "the step of a schedule, counted from 1")
    if step <= optim.warmup_steps:
        n_risen = step - 1 if (rules or Rules()).warmup > 1 else step
        return optim.learning_rate * n_risen / optim.warmup_steps
    progress = min(1.0, (step - 1 - optim.warmup_steps) / max(1, n_steps - optim.warmup_steps))
    if optim.schedule == "linear":
        return optim.learning_rate * (1 - progress)
    if optim.schedule == "cosine":
        return optim.learning_rate * (1 + math.cos(math.pi * progress)) / 2
    return optim.learning_rate


def make_schedule(optim: OptimSection, n_steps: int, rules: Rules | None = None) -> Callable[[int], float]:
    """Make the learning rate of each step, counted from 1, for a `TrainLoop` or a loop of your own.

    Args:
        optim: The recipe's section.
        n_steps: Steps of the run.
        rules: As for `learning_rate_at`.
    """
    return functools.partial(learning_rate_at, n_steps=n_steps, optim=optim, rules=rules)


def is_due(step: int, every: int, n_steps: int) -> bool:
    """Whether something that is due every so many steps, and at the end, is due after this step."""
    return step % every == 0 or step == n_steps
