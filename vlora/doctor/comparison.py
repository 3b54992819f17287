"""Comparisons of arrays with references that NumPy computes in float64, independent of MLX and the device."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..errors import CheckError
from ..memory.limits import device_kind

Numbers = NDArray[np.float64]

Function = Callable[..., mx.array]

Shares = dict[str, float]
"""Type to the largest difference, relative to the norm of the reference."""

TYPES = (mx.float32, mx.bfloat16)

TOLERANCES = {"float32": 1e-5, "bfloat16": 3e-2}
"""Largest root mean square of a difference, relative to that of the reference, by type."""

TF32_TOLERANCE = 3e-3
"""For float32 on GPUs, which multiply matrices in TF32 (CUDA, and the newest Macs) unless MLX_ENABLE_TF32 is 0."""


def compare(
    function: Function,
    expected: Callable[..., list[Numbers]],
    arrays: Sequence[Numbers],
    towards: Numbers,
    *,
    types: Sequence[mx.Dtype] = TYPES,
) -> Shares:
    """Compare a function and its gradients with a reference in each type; the reference gets the rounded inputs."""
    found = {}
    for dtype in types:
        name = type_name(dtype)
        tolerance = TOLERANCES[name]
        if name == "float32" and device_kind() != "cpu" and os.environ.get("MLX_ENABLE_TF32", "1") != "0":
            tolerance = TF32_TOLERANCE
        given = [to_array(x, dtype) for x in arrays]
        cotangent = to_array(towards, function(*given).dtype)
        references = expected(*(to_numbers(x) for x in given), to_numbers(cotangent))
        made = forward_and_back(function, given, cotangent)
        found[name] = max(
            bounded_difference(
                f"{f'the gradient of input {place}' if place else 'the result'} in {name}", *pair, tolerance
            )
            for place, pair in enumerate(zip(made, references, strict=True))
        )
    return found


def forward_and_back(function: Function, given: list[mx.array], cotangent: mx.array) -> list[mx.array]:
    """Compute a function's results, and the gradient of each input for the cotangent of the result."""
    results, gradients = mx.vjp(function, given, [cotangent])
    mx.eval(results, gradients)
    return [*results, *gradients]


def bounded_difference(name: str, found: mx.array, expected: Numbers, tolerance: float) -> float:
    """Return the relative difference between an array and the expected one.

    Raises:
        CheckError: The difference is too large, or the shapes differ.
    """
    if tuple(found.shape) != np.shape(expected):
        msg = f"{name}: found the shape {tuple(found.shape)}, expected {np.shape(expected)}"
        raise CheckError(msg)
    share = _share(to_numbers(found), np.asarray(expected, dtype=np.float64))
    if not share <= tolerance:
        msg = f"{name}: off by {share:.1e} of its size, {tolerance:.0e} at most is rounding"
        raise CheckError(msg)
    return share


def _share(found: Numbers, expected: Numbers) -> float:
    if not found.size:
        return 0.0
    size = float(np.sqrt(np.mean(np.square(expected))))
    return float(np.sqrt(np.mean(np.square(found - expected)))) / max(size, 1e-6)


def overall_difference(found: Mapping[str, mx.array], expected: Mapping[str, mx.array]) -> float:
    """Return the relative difference of all arrays of a tree together; single arrays may consist of rounding errors.

    The gradient of a key bias is zero except for rounding errors, and Adam scales it like any other.
    """
    squares = sum(
        float(np.sum(np.square(to_numbers(found[name]) - to_numbers(value)))) for name, value in expected.items()
    )
    size = sum(float(np.sum(np.square(to_numbers(value)))) for value in expected.values())
    return float(np.sqrt(squares / max(size, 1e-12)))


def describe_shares(found: Iterable[Shares]) -> str:
    """Describe the largest differences."""
    largest: Shares = {}
    for shares in found:
        largest |= {name: max(share, largest.get(name, 0.0)) for name, share in shares.items()}
    return "off by " + ", ".join(f"{share:.1e} ({name})" for name, share in largest.items())


def normal(seed: int, *shape: int) -> Numbers:
    """Draw normally distributed numbers."""
    return np.random.default_rng(seed).standard_normal(shape)


def to_array(x: Numbers, dtype: mx.Dtype) -> mx.array:
    """Convert numbers to an MLX array."""
    # MLX has no float64 on a GPU.
    return mx.array(np.asarray(x, dtype=np.float32)).astype(dtype)


def to_numbers(x: mx.array) -> Numbers:
    """Convert an MLX array to NumPy, in float64."""
    # NumPy has no bfloat16.
    return np.array(x.astype(mx.float32)).astype(np.float64)


def round_to(x: Numbers, dtype: mx.Dtype) -> Numbers:
    """Round numbers to a type of MLX."""
    return to_numbers(to_array(x, dtype))


def type_name(dtype: mx.Dtype) -> str:
    """Return the name of a type, such as "float32"."""
    return str(dtype).rpartition(".")[2]
