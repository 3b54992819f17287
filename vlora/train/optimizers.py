"""Optimizers by their names in a recipe. MLX's own, with the bias correction of the papers switched on."""

from typing import assert_never

import mlx.core as mx
import mlx.optimizers as optim

from ..arguments import expect_type
from ..recipe.schema import OptimSection


def make_optimizer(section: OptimSection) -> optim.Optimizer:
    """Make the optimizer that a recipe names.

    Its learning rate is a placeholder: the step sets it from the schedule. Adam and AdamW correct their bias
    (MLX's default does not, and makes the first steps 3 to 6 times too large).

    Args:
        section: The recipe's section.
    """
    expect_type(section, OptimSection, "make_optimizer", "give the section of a recipe, recipe.optim")
    rate, betas, decay = section.learning_rate, list(section.betas), section.weight_decay
    made: optim.Optimizer
    match section.name:
        case "adam":
            made = _Adam(rate, betas=betas, eps=section.eps, bias_correction=True)
        case "adamw":
            made = _AdamW(rate, betas=betas, eps=section.eps, weight_decay=decay, bias_correction=True)
        case "sgd":
            made = optim.SGD(rate, momentum=betas[0], weight_decay=decay)
        case "muon":
            made = optim.Muon(rate, momentum=betas[0], weight_decay=decay)
        case "lion":
            made = optim.Lion(rate, betas=betas, weight_decay=decay)
        case "adafactor":
            made = optim.Adafactor(rate, weight_decay=decay, scale_parameter=False, relative_step=False)
        case _:
            assert_never(section.name)
    return made


class _Adam(optim.Adam):  # type: ignore[misc]
    """MLX's Adam. Its bias corrections are one number each; MLX's kernels raise them to a power for every parameter."""

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, mx.array]) -> mx.array:
        """Update a parameter, f[...], and its moments."""
        (first, second), step = self.betas, self.step
        state["m"] = mean = first * state["m"] + (1 - first) * gradient
        state["v"] = square = second * state["v"] + (1 - second) * mx.square(gradient)
        rate, scale = self.learning_rate / (1 - first**step), mx.rsqrt(1 - second**step)
        # A dependency is not fused with what follows.
        rate, scale = mx.depends([rate, scale], [step])
        updated: mx.array = parameter - rate * mean / (mx.sqrt(square) * scale + self.eps)
        return updated


class _AdamW(optim.AdamW, _Adam):  # type: ignore[misc]
    """MLX's AdamW: Adam of parameters that have shrunk."""
