"""Checks of the train step: compiled and eager, rows together and one by one."""

from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ..errors import CheckError
from ..memory.limits import device_kind
from ..train.eval_step import make_eval_step
from ..train.optimizers import make_optimizer
from ..train.state import init_state
from ..train.step import make_train_step
from .comparison import bounded_difference, describe_shares, overall_difference, to_numbers
from .job import BATCH_SIZE, SIZES, TRAINED, encode_batch, load_batch, make_recipe

STEP_TOLERANCES = {"cpu": 1e-3, "metal": 1e-2, "cuda": 1e-2}
"""Largest relative difference between two ways of computing the same step. TF32 amplifies differences in the last
bit."""


def check_steps(folder: Path) -> str:
    """Check that compiled steps equal eager ones in loss, gradient norm and optimizer state."""
    recipe = make_recipe(folder, TRAINED)
    taken = []
    for compiled in (True, False):
        batch, backbone = load_batch(recipe, range(BATCH_SIZE))
        optimizer = make_optimizer(recipe.optim)
        state = init_state(backbone, optimizer)
        step = make_train_step(backbone, optimizer, compiled=compiled)
        for _ in range(2):
            state, output = step(state, batch, 1e-3)
            mx.eval(state, output)
        sums = {name: value for name, value in output._asdict().items() if isinstance(value, mx.array)}
        taken.append((sums, dict(tree_flatten(state.opt_state))))
    (compiled_sums, compiled_state), (sums, eager_state) = taken
    tolerance = STEP_TOLERANCES[device_kind()]
    shares = [
        bounded_difference(f"{name} after two steps", compiled_sums[name], to_numbers(value), tolerance)
        for name, value in sums.items()
    ]
    share = overall_difference(compiled_state, eager_state)
    if not share <= tolerance:
        msg = f"the optimizer after two steps: off by {share:.1e} of its size, {tolerance:.0e} at most is rounding"
        raise CheckError(msg)
    loss = float(sums["nll_sum"] / sums["n_supervised"])
    return f"loss {loss:.4f}; {describe_shares([{'loss and norm': max(shares), 'state': share}])}"


def check_batches(folder: Path) -> str:
    """Check that the summed loss of a batch equals the sum over its rows, computed one by one."""
    recipe = make_recipe(folder, {"lora.rank": 4})
    numbers = range(len(SIZES))
    batch, backbone = load_batch(recipe, numbers)
    state = init_state(backbone, make_optimizer(recipe.optim))
    step = make_eval_step(backbone, compiled=False)
    together = step(state, batch)[0]
    apart = sum((to_numbers(step(state, encode_batch(recipe, [number]))[0]) for number in numbers), np.zeros(()))
    return describe_shares(
        [
            {
                "together": bounded_difference(
                    "the summed loss of a batch", together, apart, STEP_TOLERANCES[device_kind()]
                )
            }
        ]
    )
