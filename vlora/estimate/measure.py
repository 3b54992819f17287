"""One step of a recipe, run on random weights: the peak memory that MLX counts, for comparison with the plan."""

import gc
from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from ..build import find_model, load_model, make_recipe_step
from ..errors import OutOfMemoryError
from ..memory.limits import device_kind, memory_limits, naming_shortage, process_memory
from ..recipe.schema import Recipe
from ..train.optimizers import make_optimizer
from ..train.state import init_state, unbind
from ..types import Batch
from .plan import Plan
from .search import format_size

SCALE = 0.02
"""Standard deviation of the random weights, about that of real ones; it has no influence on sizes."""

MOST_MICROBATCHES = 2
"""Microbatches that are run at most: a third one needs the same memory as the second."""


def measure_step(recipe: Recipe, plan: Plan) -> int:
    """Run the first step of a recipe on the rows that were planned, and read MLX's peak.

    No weights are read or downloaded. The tower encodes all images, also those whose features a run would have kept.

    Args:
        recipe: The recipe.
        plan: Its plan on this machine.

    Returns:
        Peak bytes, without those that this process held before.

    Raises:
        OutOfMemoryError: The step does not fit. On a CPU, where MLX would crash, the plan says so before.
    """
    where = "measuring a step"
    usable = process_memory() if device_kind() == "cpu" else plan.peak
    if plan.peak > usable:
        found = f"by the plan it takes {format_size(plan.peak)}, and this process may have {format_size(usable)}"
        raise OutOfMemoryError(where, found, plan.batch)
    with memory_limits(recipe.memory), naming_shortage(where, plan.batch):
        gc.collect()
        mx.clear_cache()
        held = mx.get_active_memory()
        n_microbatches = min(MOST_MICROBATCHES, recipe.train.gradient_accumulation_steps)
        return _run_step(recipe, [plan.batch] * n_microbatches) - held


def _run_step(recipe: Recipe, batches: Sequence[Batch]) -> int:
    backbone, _ = load_model(recipe, find_model(recipe), is_abstract=True)
    fill_randomly(backbone.module, recipe.train.seed)
    optimizer = make_optimizer(recipe.optim)
    state = init_state(backbone, optimizer)
    mx.eval(state)
    unbind(backbone)
    step = make_recipe_step(recipe, backbone, optimizer, state)
    mx.synchronize()
    mx.reset_peak_memory()
    # Rebound as in a run, so that arrays of the first state are freed when the step no longer needs them.
    state, output = step(state, batches, recipe.optim.learning_rate)
    mx.eval(state, output)
    mx.synchronize()
    return int(mx.get_peak_memory())


def fill_randomly(module: nn.Module, seed: int) -> None:
    """Fill an abstract model with random weights that take memory; packed weights get random bits.

    Args:
        module: The model, changed in place.
        seed: Seed of the random numbers.
    """
    key = mx.random.key(seed)
    filled = []
    for name, value in tree_flatten(module.parameters()):
        key, own = mx.random.split(key)
        if mx.issubdtype(value.dtype, mx.floating):
            made = (SCALE * mx.random.normal(value.shape, key=own)).astype(value.dtype)
        else:
            made = mx.random.randint(0, 2, value.shape, key=own).astype(value.dtype)
        # One by one, so that no more than one of them is there in float32.
        mx.eval(made)
        filled.append((name, made))
    module.update(tree_unflatten(filled))
