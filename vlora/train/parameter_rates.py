"""Learning rates and weight decays that parameters have of their own. Pure."""

import re
from collections.abc import Iterable, Mapping

import mlx.core as mx
import mlx.optimizers as optim

from ..adapters.model_parts import ModelParts
from ..errors import RecipeError
from ..recipe.schema import OptimSection
from .rules import Rules


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
