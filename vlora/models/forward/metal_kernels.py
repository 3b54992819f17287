"""Replaces Metal kernels of mlx-vlm and MLX that have no gradient.

Files and lines are those of mlx-vlm 0.7.10.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_vlm.models import kernels, rope_utils

MOST_VECTORS = 8
"""Most queries for which MLX uses its vector kernels on Metal."""


@contextmanager
def without_metal_kernels(_: nn.Module) -> Iterator[None]:
    """Let a model use its operations for other devices instead of Metal kernels.

    All families are proved with these operations, and they have gradients. Of mlx-vlm's kernels only those of rotations
    have one (rope_utils.py:716, :940). Those of interpolation have none (kernels.py:25, :194, :473, :590), and are used
    whether the tower is trained or not; nor have those of routing, banded masks and sparse attention
    (inkling/language.py:752, :165, :180, minimax_m3_vl/language.py:450, qwen4_exp/qsa_kernel.py:254,
    sparse_attention.py:187 for glm5_next). Without Metal nothing changes.
    """
    if not mx.metal.is_available():
        yield
        return
    attend = mx.fast.scaled_dot_product_attention
    with ExitStack() as stack:
        for target, name, value in (
            (mx.metal, "is_available", lambda: False),
            # Asked once, when mlx-vlm is imported.
            (kernels, "_HAS_METAL", False),
            (rope_utils, "_HAS_METAL", False),
            # Which would remember that there is none.
            (rope_utils, "_compiled_mrope_apply", lambda *_: None),
            (rope_utils, "_compiled_rotary_apply", lambda *_: None),
            (mx.fast, "scaled_dot_product_attention", functools.partial(attend_with_gradient, attend)),
        ):
            stack.callback(setattr, target, name, getattr(target, name))
            setattr(target, name, value)
        yield


def attend_with_gradient(
    attend: Callable[..., mx.array],
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    *,
    scale: float,
    mask: mx.array | str | None = None,
    **others: Any,
) -> mx.array:
    """Compute attention on Metal with an array as mask where the gradient fails in MLX 0.32.4 without one.

    For few queries MLX uses vector kernels, which "do not produce a logsumexp" that the gradient needs; with sinks the
    gradient is "NYI". With an array as mask it uses operations with a gradient. Windows at the edge of an image, in a
    trained tower, have few queries.

    Args:
        attend: MLX's own attention.
        queries: f[B, H, T, D].
        keys: f[B, K, S, D].
        values: f[B, K, S, E].
        scale: Of the products.
        mask: As MLX takes it.
        others: Likewise.

    Returns:
        f[B, H, T, E].
    """
    n_queries, n_keys = queries.shape[-2], keys.shape[-2]
    is_without_gradient = n_queries <= MOST_VECTORS or others.get("sinks") is not None
    if is_without_gradient and not isinstance(mask, mx.array):
        everything = mx.ones((n_queries, n_keys), dtype=mx.bool_)
        mask = everything if mask is None else mx.tril(everything, n_keys - n_queries)
    return attend(queries, keys, values, scale=scale, mask=mask, **others)
