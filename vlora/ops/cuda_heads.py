"""Heads normalized, rotated and moved to their places for attention in one pass, where an NVIDIA GPU computes. Pure."""

import math
from typing import cast

import mlx.core as mx

from .cuda_kernels import LOAD_BYTES, WARP, can_read_whole, lanes_of, run_kernel
from .cuda_sources import read_source
from .custom_vjp import custom_vjp
from .functional import move, rms_norm, rotate


def place_heads(
    x: mx.array, norm: tuple[mx.array, float], angles: tuple[mx.array, mx.array], rows: mx.array, back: mx.array
) -> mx.array:
    """Compute `move(rotate(rms_norm(x)))`, with the same roundings.

    Args:
        x: f[B T, H D].
        norm: Weight f[D], which gets no gradient, and what is added to the mean square.
        angles: Cosines and sines, f[B, T, 1, 2, D / 2], as `rotate` takes them.
        rows: i32[R, L], flat places of `x`, as `move` takes them.
        back: i32[B, T], flat places of the result.

    Returns:
        f[R, L, H, D].
    """
    weight, eps = norm
    cosines, sines = angles
    width = weight.size
    n_heads = x.shape[-1] // width
    if not has_kernel(x, weight, cosines, sines, back):
        heads = rms_norm(x, weight, eps, (*back.shape, n_heads, width))
        return move(rotate(heads, cosines, sines), rows, back)

    @custom_vjp(keeps="inputs")
    def placed(x: mx.array) -> mx.array:
        given = {"rows": rows, "x": x, "weight": weight, "cosines": cosines, "sines": sines}
        return _run("place_heads", given, eps, (*rows.shape, n_heads, width))

    @placed.vjp
    def placed_vjp(x: mx.array, cotangent: mx.array) -> mx.array:
        given = {"back": back, "x": x, "weight": weight, "cosines": cosines, "sines": sines, "cotangent": cotangent}
        return _run("place_heads_gradient", given, eps, x.shape)

    return cast("mx.array", placed(x))


def has_kernel(x: mx.array, weight: mx.array, cosines: mx.array, sines: mx.array, back: mx.array) -> bool:
    """Whether there is a kernel: a head is a load of each of some threads of a warp, with angles for each place."""
    width = weight.size
    if not can_read_whole(width, x, weight, cosines, sines):
        return False
    lanes, loads = lanes_of(width, x.dtype) or (1, 0)
    is_shared = loads == 1 and 1 < lanes <= WARP
    return is_shared and cosines.shape == sines.shape == (*back.shape, 1, 2, width // 2) and x.shape[0] == back.size


def _run(name: str, given: dict[str, mx.array], eps: float, shape: tuple[int, ...]) -> mx.array:
    """Run a kernel whose first array numbers the places of its result, f[..., H D] or f[..., H, D]."""
    x, width = given["x"], given["weight"].size
    lanes = width * x.dtype.size // LOAD_BYTES
    template = {"T": x.dtype, "HEADS": x.shape[-1] // width, "LANES": lanes}
    return run_kernel(
        name,
        given,
        template,
        math.prod(shape) // width * lanes,
        {"out": shape},
        x.dtype,
        # Finds a thread's head, its place, and whether there is such a place.
        start=read_source("heads"),
        constant=f"constexpr float EPS = {eps:.9e}f;\n",
    )[0]
