"""Gradients scaled down to a largest global norm, and that norm. Pure, and safe to trace."""

import mlx.core as mx

from ..types import Tree

FUSED_ROUNDS = 4
"""Rounds of pairs that are one kernel: of 16 numbers. A Metal kernel has 31 arguments, and MLX, which stops at about 24
inputs, fused up to 30 numbers and then refused the kernel (`build_kernel` in metal/compiled.cpp)."""


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
    squares = [_sum(mx.square(gradient.astype(mx.float32)).reshape(-1)) for gradient in gradients.values()]
    n_rounds = 0
    while len(squares) > 1:
        # In pairs, which a compiled function fuses; stacked they would be copied one by one.
        squares = [sum(squares[place + 1 : place + 2], squares[place]) for place in range(0, len(squares), 2)]
        n_rounds += 1
        if n_rounds % FUSED_ROUNDS == 0:
            # A change of shape ends the fusion.
            squares = [square.reshape(() if square.ndim else 1) for square in squares]
    norm = mx.sqrt(squares[0].reshape(()))
    if count is not None:
        norm = norm / count
        gradients = {name: gradient / count for name, gradient in gradients.items()}
    if max_norm is None:
        return gradients, norm
    scale = mx.minimum(max_norm / (norm + 1e-6), 1.0)
    return {name: gradient * scale for name, gradient in gradients.items()}, norm


SUMMED_AT_ONCE = 1024
"""On a CPU MLX adds up numbers one after the other: of 700,000 squares it loses 3e-4."""


def _sum(values: mx.array) -> mx.array:
    """Add up f[N] in stages, so that no sum is of so many numbers that the last ones are too small for it."""
    if values.size <= SUMMED_AT_ONCE:
        return values.sum()
    whole = values.size // SUMMED_AT_ONCE * SUMMED_AT_ONCE
    return _sum(values[:whole].reshape(-1, SUMMED_AT_ONCE).sum(axis=1)) + values[whole:].sum()
