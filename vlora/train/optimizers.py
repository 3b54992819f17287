"""Optimizers by their names in a recipe. MLX's own, with the bias correction of the papers switched on."""

import re
from collections.abc import Iterable, Mapping
from typing import assert_never

import mlx.core as mx
import mlx.optimizers as optim

from ..adapters.model_parts import ModelParts
from ..arguments import expect_type
from ..errors import RecipeError
from ..recipe.schema import OptimSection
from .rules import Rules


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


def lr_multipliers(
    names: Iterable[str], layout: ModelParts, section: OptimSection, rules: Rules | None = None
) -> dict[str, float]:
    """Find the learning rate multiplier of each parameter.

    LoRA+ (Hayou et al., 2024, arXiv 2402.12354) gives B a higher rate than A, because at one rate for both the change
    of B is too small in wide layers. PEFT (`create_loraplus_optimizer`) gives B's rate to DoRA's magnitudes too.

    Args:
        names: Trained parameters.
        layout: Where the model's parts lie.
        section: The recipe's section.
        rules: Those of the run; None for the newest.

    Returns:
        Name to factor, for those that have another than 1.

    Raises:
        RecipeError: A rate for what is not trained.
    """
    rates: dict[str, float | None] = {"connector": section.connector_rate, "vision": section.vision_rate}
    spoken = {"connector": "the connector", "vision": "the vision tower"}
    ratio = section.lora_plus_ratio or 1.0
    faster = (".lora_b", ".m") if (rules or Rules()).lora_plus > 1 else (".lora_b",)
    factors: dict[str, float] = {}
    parts: set[str] = set()
    for name in names:
        part = layout.part(name)
        parts.add(part)
        rate = rates.get(part) or section.learning_rate
        factors[name] = rate / section.learning_rate * (ratio if name.endswith(faster) else 1.0)
    for asked, own in rates.items():
        if own is not None and asked not in parts:
            msg = (
                f"optim.{asked}_rate: found {own:g}, but nothing of {spoken[asked]} is trained; set "
                f"model.train_vision = true or name its layers in lora.targets"
            )
            raise RecipeError(msg)
    return {name: factor for name, factor in factors.items() if factor != 1.0}


NOT_DECAYED = re.compile(r"bias|layernorm|rmsnorm|(^|\.)norm($|\.)|_norm($|\.)", re.IGNORECASE)
"""Names of parameters that transformers' Trainer does not let decay (`get_decay_parameter_names`)."""


def undecayed(params: Mapping[str, mx.array], section: OptimSection, rules: Rules | None = None) -> frozenset[str]:
    """Name the parameters that do not decay: norms, biases, and others of one dimension.

    DoRA's magnitudes decay, as they do in PEFT under transformers' Trainer.

    Args:
        params: Trained parameters by name.
        section: The recipe's section.
        rules: Those of the run; None for the newest.
    """
    if section.weight_decay == 0 or section.decay_all or (rules or Rules()).decay == 1:
        return frozenset()
    return frozenset(
        name
        for name, value in params.items()
        if not name.endswith((".lora_a", ".lora_b", ".m")) and (value.ndim < 2 or NOT_DECAYED.search(name))  # noqa: PLR2004
    )


def let_decay(
    optimizer: optim.Optimizer, gradient: mx.array, parameter: mx.array, decay: float | mx.array
) -> tuple[mx.array, mx.array]:
    """Do in an optimizer's place what it does with a weight decay, which may be another one for each element.

    Args:
        optimizer: Its kind and its learning rate count; its own weight decay is 0.
        gradient: f[...].
        parameter: f[...].
        decay: The weight decay, or f[...].

    Returns:
        (gradient, parameter), as the optimizer would go on with them.
    """
    if isinstance(optimizer, (optim.SGD, optim.Muon)):
        return gradient + decay * parameter, parameter
    return gradient, parameter * (1 - optimizer.learning_rate * decay)
