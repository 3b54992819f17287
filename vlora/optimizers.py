"""Optimizers by their names in a recipe. MLX's own, with the bias correction of the papers switched on."""

import mlx.core as mx
import mlx.optimizers as optim

from .recipe import OptimSection
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


def clip_by_global_norm(gradients: Tree, max_norm: float | None) -> tuple[Tree, mx.array]:
    """Scale gradients so that their global norm is at most `max_norm`.

    Computed in float32, as torch's `clip_grad_norm_` does, its 1e-6 included.

    Args:
        gradients: Name to f[...].
        max_norm: None leaves the gradients alone.

    Returns:
        (gradients, f32[] norm before clipping).
    """
    squares = [mx.square(gradient.astype(mx.float32)).sum() for gradient in gradients.values()]
    norm = mx.sqrt(mx.stack(squares).sum())
    if max_norm is None:
        return gradients, norm
    scale = mx.minimum(max_norm / (norm + 1e-6), 1.0)
    return {name: gradient * scale for name, gradient in gradients.items()}, norm
