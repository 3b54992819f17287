"""Checks of attention as models call it."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from ..models import TILE, attend_fused, without_metal_kernels
from ..ops import functional
from ..ops.cpu_exp import has_slow_exponentials
from .comparison import Numbers, Shares, compare, describe_shares, normal


def check_attention(_: Path) -> str:
    """Check attention without a mask, causal and with blocks, at head widths with and without kernels."""
    return describe_shares(
        _attention(40, width, mask) for width in (64, 128, 32) for mask in (None, "causal", "blocks")
    )


def check_few_queries(_: Path) -> str:
    """Check attention with so few queries that GPUs use other kernels."""
    return describe_shares(_attention(5, 64, mask) for mask in (None, "causal"))


def check_tiles(_: Path) -> str:
    """Check attention as models get it on a card, and its gradient as a projection behind it gives that.

    MLX keeps what it has compiled for rows of a whole tile, for those that are padded to one as well: each follows the
    other.
    """
    return describe_shares(_compare_tiles(n_places) for n_places in (TILE, TILE - 28, TILE))


def _compare_tiles(n_places: int) -> Shares:
    n_heads, n_groups, width = 6, 2, 64
    causal = _make_reference(np.tri(n_places, dtype=bool), width**-0.5, n_heads // n_groups)

    def attend(*inputs: mx.array) -> mx.array:
        queries, keys, values = (x.transpose(0, 2, 1, 3) for x in inputs)
        return attend_fused(queries, keys, values, None, width**-0.5, "causal").transpose(0, 2, 1, 3)

    def expected(*inputs: Numbers) -> list[Numbers]:
        return [x.transpose(0, 2, 1, 3) for x in causal(*(x.transpose(0, 2, 1, 3) for x in inputs))]

    heads = (n_heads, n_groups, n_groups, n_heads)
    *arrays, towards = (normal(seed, 1, n_places, n, width) for seed, n in enumerate(heads))
    return compare(attend, expected, arrays, towards, types=(mx.bfloat16,))


def _attention(n_queries: int, width: int, mask: str | None) -> Shares:
    """Compare attention as models call it, three query heads per key head, with its definition."""
    n_heads, n_groups, n_keys = 6, 2, 40
    place = np.arange(n_keys)
    sees = np.ones((n_queries, n_keys), dtype=bool)
    if mask is not None:
        sees = place[None, :] <= place[n_keys - n_queries :, None]
    if mask == "blocks":
        sees &= (place[n_keys - n_queries :, None] // 13) == (place[None, :] // 13)
    given = mx.array(sees) if mask == "blocks" else mask
    scale = width**-0.5

    expected = _make_reference(sees, scale, n_heads // n_groups)

    def attend(*inputs: mx.array) -> mx.array:
        with without_metal_kernels(nn.Module()):
            attended: mx.array = mx.fast.scaled_dot_product_attention(*inputs, scale=scale, mask=given)
            return attended

    arrays = [
        normal(seed, 1, heads, n, width)
        for seed, (heads, n) in enumerate([(n_heads, n_queries), (n_groups, n_keys), (n_groups, n_keys)])
    ]
    towards = normal(3, 1, n_heads, n_queries, width)
    found = compare(attend, expected, arrays, towards)
    if has_slow_exponentials():

        def attend_in_passes(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
            return functional.attend(queries, keys, values, scale, given)

        # The function that models get in its place on this device.
        own = compare(attend_in_passes, expected, arrays, towards, types=(mx.float32,))
        found["float32"] = max(found["float32"], own["float32"])
    return found


def _make_reference(sees: NDArray[np.bool_], scale: float, n_shared: int) -> Callable[..., list[Numbers]]:
    """Compute attention and its gradients by definition.

    Args:
        sees: bool[Q, K], True where a query sees a key.
        scale: Of the scores.
        n_shared: Heads that share keys and values.
    """

    def attend(queries: Numbers, keys: Numbers, values: Numbers, towards: Numbers) -> list[Numbers]:
        keys, values = (np.repeat(x, n_shared, axis=1) for x in (keys, values))
        scores = np.where(sees, queries @ keys.swapaxes(-1, -2) * scale, -np.inf)
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares = powers / powers.sum(axis=-1, keepdims=True)
        mixed = shares @ values
        of_shares = towards @ values.swapaxes(-1, -2)
        of_scores = shares * (of_shares - np.sum(of_shares * shares, axis=-1, keepdims=True)) * scale
        of_keys, of_values = of_scores.swapaxes(-1, -2) @ queries, shares.swapaxes(-1, -2) @ towards
        grouped = (x.reshape(1, -1, n_shared, *x.shape[2:]).sum(axis=2) for x in (of_keys, of_values))
        return [mixed, of_scores @ keys, *grouped]

    return attend
