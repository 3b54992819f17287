"""Resizes grids of features by matrix products, which have gradients on every device. Pure; safe to trace."""

from typing import Any

import mlx.core as mx
import numpy as np

FloatMatrix = np.ndarray[Any, np.dtype[np.float32]]

CUBIC, SMOOTH_CUBIC = -0.75, -0.5


def resize_bilinear(picture: mx.array, size: tuple[int, int]) -> mx.array:
    """Resize f[H, W, D] to (H', W') as two products, so that the gradient exists on every device."""
    return _resize(picture, _bilinear_matrix(picture.shape[0], size[0]), _bilinear_matrix(picture.shape[1], size[1]))


def resize_bicubic(picture: mx.array, size: tuple[int, int]) -> mx.array:
    """Resize f[H, W, D] to (H', W') as `resize_bilinear`, by cubic convolution with edges repeated."""
    return _resize(picture, _bicubic_matrix(picture.shape[0], size[0]), _bicubic_matrix(picture.shape[1], size[1]))


def resize_bicubic_smoothly(picture: mx.array, size: tuple[int, int]) -> mx.array:
    """Resize f[H, W, D] to (H', W') with a kernel that is wider where the picture gets smaller (antialiasing)."""
    return _resize(picture, _smooth_matrix(picture.shape[0], size[0]), _smooth_matrix(picture.shape[1], size[1]))


def resize_linear(line: mx.array, length: int) -> mx.array:
    """Resize f[N, D] to N' as a product."""
    matrix = mx.array(_bilinear_matrix(line.shape[0], length))
    return (matrix @ line.astype(mx.float32)).astype(line.dtype)


def _resize(picture: mx.array, rows: FloatMatrix, columns: FloatMatrix) -> mx.array:
    halfway = mx.tensordot(mx.array(rows), picture.astype(mx.float32), axes=1)
    resized: mx.array = mx.tensordot(mx.array(columns), halfway, axes=[[1], [1]]).swapaxes(0, 1)
    return resized.astype(picture.dtype)


def _bilinear_matrix(n_from: int, n_to: int) -> FloatMatrix:
    places = np.maximum((np.arange(n_to) + 0.5) * (n_from / n_to) - 0.5, 0)
    below = np.minimum(places.astype(np.int64), n_from - 1)
    above = np.minimum(below + 1, n_from - 1)
    share = places - below
    matrix = np.zeros((n_to, n_from))
    np.add.at(matrix, (np.arange(n_to), below), 1 - share)
    np.add.at(matrix, (np.arange(n_to), above), share)
    return matrix.astype(np.float32)


def _bicubic_matrix(n_from: int, n_to: int) -> FloatMatrix:
    places = (np.arange(n_to) + 0.5) * (n_from / n_to) - 0.5
    matrix = np.zeros((n_to, n_from))
    for offset in (-1, 0, 1, 2):
        near = np.floor(places) + offset
        far = np.abs(places - near)
        # torch takes a = -0.75.
        np.add.at(matrix, (np.arange(n_to), np.clip(near.astype(np.int64), 0, n_from - 1)), _keys_kernel(far, CUBIC))
    return matrix.astype(np.float32)


def _smooth_matrix(n_from: int, n_to: int) -> FloatMatrix:
    """Nothing beyond the border takes part, and what does has weights that add up to one; torch takes a = -0.5 here."""
    places = (np.arange(n_to)[:, None] + 0.5) * (n_from / n_to) - 0.5
    far = np.abs(places - np.arange(n_from)[None]) / max(n_from / n_to, 1.0)
    weights = _keys_kernel(far, SMOOTH_CUBIC)
    smooth: FloatMatrix = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return smooth


def _keys_kernel(far: "np.ndarray[Any, Any]", a: float) -> "np.ndarray[Any, Any]":
    inner = (a + 2) * far**3 - (a + 3) * far**2 + 1
    outer = a * (far**3 - 5 * far**2 + 8 * far - 4)
    return np.where(far <= 1, inner, np.where(far < 2, outer, 0))  # noqa: PLR2004 - the kernel's reach
