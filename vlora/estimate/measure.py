"""What a recipe does, run on random weights: the peak memory that MLX counts, for comparison with the plan."""

import gc
from collections.abc import Callable, Sequence

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten

from .. import models
from ..build import find_model, load_model, make_recipe_step
from ..errors import OutOfMemoryError
from ..memory.limits import device_kind, memory_limits, naming_shortage, process_memory
from ..recipe.schema import Recipe
from ..train.eval_step import evaluate, make_eval_step
from ..train.objectives.named import find_objective
from ..train.objectives.objective import LossFn, Objective
from ..train.objectives.sft import loss_fn
from ..train.optimizers import make_optimizer
from ..train.reference import Reference, make_reference
from ..train.state import bind, init_state, unbind
from ..types import Batch, TrainState
from .phases import ANSWERS, Phase
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
    n_microbatches = min(MOST_MICROBATCHES, recipe.train.gradient_accumulation_steps)

    def run() -> int:
        backbone, state, optimizer = _make_model(recipe)
        reference = make_reference(recipe, backbone, state.params)
        step = make_recipe_step(recipe, backbone, optimizer, state, reference=reference)
        _begin()
        # One name, as in a run: what the step no longer needs of the first state is free.
        state, output = step(state, [plan.batch] * n_microbatches, recipe.optim.learning_rate)
        mx.eval(state, output)
        return _end()

    return _measure(recipe, plan, "measuring a step", plan.step_peak, run)


def measure_phase(recipe: Recipe, plan: Plan, phase: Phase) -> int:
    """Run a validation's batch, or a batch of answers, likewise.

    Args:
        recipe: The recipe.
        plan: Its plan on this machine.
        phase: One of the plan's.

    Returns:
        Bytes in use at the fullest moment, less what this process held before.

    Raises:
        OutOfMemoryError: As for `measure_step`.
    """
    rows = plan.longest_rows

    def run() -> int:
        backbone, state, _ = _make_model(recipe)
        if phase.name == ANSWERS:
            return run_answers(backbone, state, rows.prompts, models.answer_options(recipe, 0))
        if rows.valid is None:
            msg = "the plan has no rows to validate on"
            raise ValueError(msg)
        loss = find_objective(recipe.train.objective, recipe.preference)
        reference = make_reference(recipe, backbone, state.params)
        return run_validation(backbone, state, rows.valid, loss, reference)

    return _measure(recipe, plan, f"measuring {phase.name}", phase.nbytes, run)


def run_validation(
    backbone: models.MlxVlmBackbone,
    state: TrainState,
    batch: Batch,
    loss: LossFn | Objective = loss_fn,
    reference: Reference | None = None,
) -> int:
    """Validate on a batch, twice; give MLX's peak in bytes."""
    step = make_eval_step(backbone, loss=loss, reference=reference)
    _begin()
    evaluate(step, state, [batch, batch])
    return _end()


def run_answers(
    backbone: models.MlxVlmBackbone,
    state: TrainState,
    prompts: Sequence[models.Prompt],
    options: models.AnswerOptions,
) -> int:
    """Answer questions together, each to its last token; give MLX's peak in bytes."""
    banned = models.media_tokens(backbone.module, -1)
    choose = models.Sampler(names=[""] * len(prompts), temperature=options.temperature, banned=banned)
    bind(backbone, state)
    try:
        with models.generating(backbone):
            _begin()
            models.decode(backbone, prompts, options.max_new_tokens, choose, ())
            return _end()
    finally:
        unbind(backbone)


def _measure(recipe: Recipe, plan: Plan, where: str, planned: int, run: Callable[[], int]) -> int:
    usable = process_memory() if device_kind() == "cpu" else planned
    if planned > usable:
        found = f"by the plan it takes {format_size(planned)}, and this process may have {format_size(usable)}"
        raise OutOfMemoryError(where, found, plan.batch)
    with memory_limits(recipe.memory), naming_shortage(where, plan.batch):
        gc.collect()
        mx.clear_cache()
        held = mx.get_active_memory()
        return run() - held


def _make_model(recipe: Recipe) -> tuple[models.MlxVlmBackbone, TrainState, optim.Optimizer]:
    """Make the model of random weights, the state and the optimizer that a run begins with."""
    backbone, _ = load_model(recipe, find_model(recipe), is_abstract=True)
    fill_randomly(backbone.module, recipe.train.seed)
    optimizer = make_optimizer(recipe.optim)
    state = init_state(backbone, optimizer)
    mx.eval(state)
    unbind(backbone)
    return backbone, state, optimizer


def _begin() -> None:
    mx.synchronize()
    mx.reset_peak_memory()


def _end() -> int:
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
