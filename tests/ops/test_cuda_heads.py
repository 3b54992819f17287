"""Heads placed in one pass against single steps; the kernels themselves are skipped where there is no NVIDIA GPU."""

import mlx.core as mx
import numpy as np
import pytest

from tests.ops.test_cuda_kernels import Elsewhere, cuda, dtypes, elsewhere, normal, pulled, same  # noqa: F401
from vlora.ops import cuda_heads
from vlora.ops.cuda_heads import has_kernel, place_heads
from vlora.ops.functional import move, rms_norm, rotate

SHAPES = [(1, 37, 4, 16, 3, 128), (3, 5, 2, 9, 2, 64), (2, 150, 5, 64, 8, 32), (1, 9, 3, 4, 1, 80), (2, 3, 2, 4, 2, 8)]
"""Of rows B, T, of attention's rows R, L, heads and their width: among them widths without a kernel."""


def places(shape: tuple[int, ...]) -> tuple[mx.array, mx.array]:
    """Place some of the places of rows in others, in no order; others of both have none."""
    n_rows, length, n_short, width = shape
    rng = np.random.default_rng(0)
    n_moved = min(n_rows * length, n_short * width) * 3 // 4
    froms, tos = (rng.permutation(count)[:n_moved] for count in (n_rows * length, n_short * width))
    rows, back = (np.full(count, -1, dtype=np.int32) for count in (n_short * width, n_rows * length))
    rows[tos], back[froms] = froms, tos
    return mx.array(rows.reshape(n_short, width)), mx.array(back.reshape(n_rows, length))


def arrays(shape: tuple[int, ...], dtype: mx.Dtype) -> tuple[mx.array, mx.array, tuple[mx.array, mx.array]]:
    """Make heads, a weight, and angles that differ in both halves."""
    n_rows, length, n_heads, width = *shape[:2], *shape[4:]
    x, weight = normal(n_rows * length, n_heads * width, dtype=dtype), 1 + 0.1 * normal(width, dtype=dtype, seed=1)
    cosines, sines = (normal(n_rows, length, 1, 2, width // 2, dtype=dtype, seed=seed) for seed in (2, 3))
    return x, weight, (cosines, sines)


@cuda
@dtypes
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_pass_is_three(shape: tuple[int, ...], dtype: mx.Dtype, elsewhere: Elsewhere) -> None:  # noqa: F811
    """Result and gradient, eager and compiled; nothing comes from places that are not moved, nor goes to them."""
    x, weight, angles = arrays(shape, dtype)
    rows, back = places(shape[:4])

    def single(x: mx.array) -> mx.array:
        heads = rms_norm(x, weight, 1e-6, (*back.shape, *shape[4:]))
        return mx.where((rows >= 0)[..., None, None], move(rotate(heads, *angles), rows, back), 0)

    def placed(x: mx.array) -> mx.array:
        return mx.where((rows >= 0)[..., None, None], place_heads(x, (weight, 1e-6), angles, rows, back), 0)

    found = pulled(placed, x)
    same(found, elsewhere(pulled, single, x), dtype)
    # The kernels of the single steps round in the same places.
    same(found, pulled(single, x), mx.float32 if dtype == mx.float32 else dtype)
    same(mx.compile(lambda x: pulled(placed, x))(x), found, dtype)
    assert not np.array(found[1].astype(mx.float32))[np.array(back).reshape(-1) < 0].any()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_without_a_kernel_the_steps_are_single(shape: tuple[int, ...]) -> None:
    """The same places and shapes."""
    x, weight, angles = arrays(shape, mx.float32)
    rows, back = places(shape[:4])
    heads = rms_norm(x.reshape(*back.shape, *shape[4:]), weight, 1e-6)
    expected = np.array(rotate(heads, *angles)).reshape(-1, *shape[4:])
    found = np.array(place_heads(x, (weight, 1e-6), angles, rows, back))
    numbers = np.array(rows)

    assert found.shape == (*rows.shape, *shape[4:])
    np.testing.assert_allclose(found[numbers >= 0], expected[numbers[numbers >= 0]], rtol=1e-5, atol=1e-5)


def test_heads_of_a_warp_have_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A load of each of two threads or more, with angles of their type for each place."""
    monkeypatch.setattr("vlora.ops.cuda_kernels.on_cuda", lambda: True)

    def has(width: int, dtype: mx.Dtype = mx.bfloat16) -> bool:
        x, weight, angles = arrays((2, 3, 2, 4, 2, width), dtype)
        return has_kernel(x, weight, *angles, mx.zeros((2, 3), mx.int32))

    assert [width for width in range(2, 300, 2) if has(width)] == [16, 32, 64, 128, 256]
    assert [width for width in range(2, 300, 2) if has(width, mx.float32)] == [8, 16, 32, 64, 128]
    x, weight, (cosines, sines) = arrays((2, 3, 2, 4, 2, 64), mx.bfloat16)
    back = mx.zeros((2, 3), mx.int32)
    assert not has_kernel(x, weight, cosines.astype(mx.float32), sines, back)
    assert not has_kernel(x, weight, cosines[:1], sines[:1], back)


def test_no_place_begins_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which CUDA would refuse."""
    monkeypatch.setattr(cuda_heads, "has_kernel", lambda *_: True)
    x, weight, angles = arrays((1, 0, 0, 4, 2, 64), mx.float32)
    rows, back = mx.zeros((0, 4), mx.int32), mx.zeros((1, 0), mx.int32)

    assert place_heads(x, (weight, 1e-6), angles, rows, back).shape == (0, 4, 2, 64)
