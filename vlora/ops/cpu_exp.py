"""Exponentials for CPUs on which MLX has no vector instructions for them. Pure; safe to trace.

On x86 MLX computes exponentials one by one with calls into the C library (12 to 27 ns each). Kernels of additions and
multiplications alone are compiled to vector instructions: 1 ns per exponential, with a smaller error. On other
processors MLX's own functions are used.
"""

import math
import platform
from collections.abc import Callable
from typing import cast

import mlx.core as mx
import mlx.nn as nn

from .custom_vjp import custom_vjp

LOWEST = -88.0
"""From -87.7 down results are zero; the smallest normal float32 is e to the power of -87.3."""

LOG2_E = 1.4426950408889634

LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
"""The logarithm of 2 in two parts; small multiples of the first are exact (Cody and Waite, 1980)."""

BIAS, MANTISSA_BITS = 127, 23
"""Exponent bias and mantissa bits of a float32."""

STAGE, LONG_ROW = 16, 128
"""Number of parts that a row is split into for reduction, and the length from which it is split."""


def has_slow_exponentials() -> bool:
    """Whether MLX computes exponentials one by one on the default device."""
    return bool(mx.default_device() == mx.Device(mx.cpu)) and platform.machine() in {"x86_64", "AMD64"}


def exponential(x: mx.array) -> mx.array:
    """Compute e^x for x <= 0: f[...] to f[...]; in float32 with a relative error of 3e-7."""
    if x.dtype != mx.float32 or not has_slow_exponentials():
        return mx.exp(x)
    run = custom_vjp(keeps="results")(raw_exponential)
    run.vjp(lambda _, cotangent, result: cotangent * result)
    return cast("mx.array", run(x))


# Compiled here if the step is not.
@mx.compile
def raw_exponential(x: mx.array) -> mx.array:
    """Compute `exponential` in float32 without a gradient, for use within functions with custom gradients.

    With x = n ln 2 + r, n an integer and |r| <= ln 2 / 2, the result is 2^n, assembled from bits, times e^r. MLX
    compiles two kernels with the bits in between; in this order of operations the second reaches exactly its fusion
    depth.
    """
    lowest = _unknown(LOWEST, x)
    bits = ((mx.where(x < lowest, lowest, x) * LOG2_E - 0.5).astype(mx.int32) + BIAS) << MANTISSA_BITS
    n = ((bits >> MANTISSA_BITS) - BIAS).astype(mx.float32)
    # Computed again: an array that two kernels read would be written to memory.
    again = mx.depends([x], [bits])[0]
    r = mx.where(again < lowest, lowest, again) - n * LN2_HIGH - n * LN2_LOW
    square = r * r
    # Taylor's series up to r^6.
    rest = (1 / 24 + r * (1 / 120)) + square * (1 / 720)
    power = square * ((0.5 + r * (1 / 6)) + square * rest) + (r + 1)
    return power * mx.view(bits, mx.float32)


def sigmoid(x: mx.array) -> mx.array:
    """Compute 1 / (1 + e^-x): f[...] to f[...]."""
    if x.dtype != mx.float32 or not has_slow_exponentials():
        return mx.sigmoid(x)
    run = custom_vjp(keeps="results")(raw_sigmoid)
    run.vjp(lambda _, cotangent, result: cotangent * result * (1 - result))
    return cast("mx.array", run(x))


def gelu(x: mx.array, *, is_tanh: bool) -> mx.array:
    """Compute GELU, f[...] to f[...]: exact, or in the tanh approximation."""
    if is_tanh:
        half = 0.7978845608028654 * (x + 0.044715 * (x * x * x))
        if x.dtype != mx.float32 or not has_slow_exponentials():
            return 0.5 * x * (1 + mx.tanh(half))
        # The same: (1 + tanh(y)) / 2 is the logistic function of 2 y.
        return x * sigmoid(2 * half)
    if x.dtype != mx.float32 or not has_slow_exponentials():
        return cast("mx.array", nn.gelu(x))
    # As MLX has the error function: Abramowitz and Stegun, 1964, 7.1.26.
    size = mx.abs(x)
    t = 1 / (1 + 0.3275911 * math.sqrt(0.5) * size)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return 0.5 * (x + size * (1 - series * exponential(-0.5 * x * x)))


def shifted_exp_rows(x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """Compute e^(x - max) along the last axis, without a gradient.

    Args:
        x: f32[..., N].

    Returns:
        (f32[..., N] e^(x - largest), f32[..., 1] their sum, f32[..., 1] largest).
    """
    largest = reduce_rows(mx.max, x)
    powers = raw_exponential(x - along_rows(largest, x))
    return powers, reduce_rows(mx.sum, powers), largest


def reduce_rows(reduce: Callable[..., mx.array], x: mx.array) -> mx.array:
    """Reduce the last axis, f[..., N] to f[..., 1], with `mx.max` or `mx.sum`.

    In two stages where the length divides evenly: many columns at once as vectors, then the partial results.
    """
    n_numbers = x.shape[-1]
    if n_numbers >= LONG_ROW and n_numbers % STAGE == 0:
        x = reduce(x.reshape(*x.shape[:-1], STAGE, -1), axis=-2)
    return reduce(x, axis=-1, keepdims=True)


def along_rows(column: mx.array, rows: mx.array) -> mx.array:
    """Broadcast a number per row, f[..., 1], to rows f[..., N].

    Otherwise MLX would fuse the broadcast with later operations into a kernel that indexes every element separately.
    """
    return cast("mx.array", mx.depends([mx.broadcast_to(column, rows.shape)], [rows])[0])


def raw_sigmoid(x: mx.array) -> mx.array:
    """Compute `sigmoid` in float32 without a gradient."""
    power = raw_exponential(-mx.abs(x))
    zero, one = _unknown(0.0, x), _unknown(1.0, x)
    return mx.where(x < zero, power, one) / (1 + power)


def _unknown(value: float, x: mx.array) -> mx.array:
    """Return a scalar whose value is not a constant of the kernel.

    If one side of a select were a constant, the compiler would move later operations into branches, and loops with
    branches are not vectorized.
    """
    return cast("mx.array", mx.depends([mx.array(value)], [x])[0])
