"""Optimizers by their names in a recipe. MLX's own, with the bias correction of the papers switched on."""

from collections.abc import Iterable

import mlx.core as mx
import mlx.optimizers as optim

from .errors import RecipeError
from .recipe import OptimSection
from .targets import Layout
from .types import Tree


def make_optimizer(section: OptimSection) -> optim.Optimizer:
    """Make the optimizer that a recipe names.

    Its learning rate is a placeholder: the step sets it from the schedule. Adam and AdamW correct their bias
    (MLX's default does not, and makes the first steps 3 to 6 times too large).

    Args:
        section: The recipe's section.
    """
    rate, betas, decay = section.learning_rate, list(section.betas), section.weight_decay
    if section.name == "adam":
        return optim.Adam(rate, betas=betas, eps=section.eps, bias_correction=True)
    if section.name == "adamw":
        return optim.AdamW(rate, betas=betas, eps=section.eps, weight_decay=decay, bias_correction=True)
    if section.name == "sgd":
        return optim.SGD(rate, momentum=betas[0], weight_decay=decay)
    if section.name == "muon":
        return optim.Muon(rate, momentum=betas[0], weight_decay=decay)
    if section.name == "lion":
        return optim.Lion(rate, betas=betas, weight_decay=decay)
    return optim.Adafactor(rate, weight_decay=decay, scale_parameter=False, relative_step=False)


def rate_factors(names: Iterable[str], layout: Layout, section: OptimSection) -> dict[str, float]:
    """Say how many times the learning rate each parameter has.

    LoRA+ (Hayou et al., 2024, arXiv 2402.12354) gives B a higher rate than A, because at one rate for both the change
    of B is too small in wide layers.

    Args:
        names: Trained parameters.
        layout: Where the model's parts lie.
        section: The recipe's section.

    Returns:
        Name to factor, for those that have another than 1.

    Raises:
        RecipeError: A rate for what is not trained.
    """
    rates: dict[str, float | None] = {"connector": section.connector_rate, "vision": section.vision_rate}
    spoken = {"connector": "the connector", "vision": "the vision tower"}
    ratio = section.lora_plus_ratio or 1.0
    factors: dict[str, float] = {}
    parts: set[str] = set()
    for name in names:
        part = layout.part(name)
        parts.add(part)
        rate = rates.get(part) or section.learning_rate
        factors[name] = rate / section.learning_rate * (ratio if name.endswith(".lora_b") else 1.0)
    for asked, own in rates.items():
        if own is not None and asked not in parts:
            msg = (
                f"optim.{asked}_rate: found {own:g}, but nothing of {spoken[asked]} is trained; set "
                f"model.train_vision = true or name its layers in lora.targets"
            )
            raise RecipeError(msg)
    return {name: factor for name, factor in factors.items() if factor != 1.0}


def clip_by_global_norm(
    gradients: Tree, max_norm: float | None, count: mx.array | None = None
) -> tuple[Tree, mx.array]:
    """Scale gradients so that their global norm is at most `max_norm`.

    Computed in float32, as torch's `clip_grad_norm_` does, its 1e-6 included.

    Args:
        gradients: Name to f[...].
        max_norm: None does not clip.
        count: What the gradients are divided by first, f32[]; None leaves them. Its kernels fuse with what follows:
            the norm is taken of the sums.

    Returns:
        (gradients, f32[] norm before clipping).
    """
    squares = [mx.square(gradient.astype(mx.float32)).sum() for gradient in gradients.values()]
    while len(squares) > 1:
        # In pairs, which a compiled function fuses; stacked they would be copied one by one.
        squares = [sum(squares[place + 1 : place + 2], squares[place]) for place in range(0, len(squares), 2)]
    norm = mx.sqrt(squares[0])
    if count is not None:
        norm = norm / count
        gradients = {name: gradient / count for name, gradient in gradients.items()}
    if max_norm is None:
        return gradients, norm
    scale = mx.minimum(max_norm / (norm + 1e-6), 1.0)
    return {name: gradient * scale for name, gradient in gradients.items()}, norm
