"""CUDA kernels against what MLX runs elsewhere; skipped where there is no NVIDIA GPU."""

from collections.abc import Callable, Iterable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from vlora.ops import cuda_kernels
from vlora.ops.cuda_kernels import (
    WORD_ALIGNED,
    gate_gradients,
    lanes_of,
    norm_rows,
    norm_rows_gradient,
    on_cuda,
    row_losses,
    row_losses_gradient,
    unpack_words,
)
from vlora.ops.functional import move, rms_norm, rotate, swiglu, take_rows
from vlora.train.objectives.sft import loss_fn

INPUTS, OUTPUTS = 64, 96

Elsewhere = Callable[..., Any]

cuda = pytest.mark.skipif(not on_cuda(), reason="kernels for an NVIDIA GPU")
dtypes = pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16], ids=str)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    """Run a function as where there is no NVIDIA GPU."""

    def run(function: Callable[..., Any], *arrays: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(cuda_kernels, "on_cuda", lambda: False)
            return function(*arrays)

    return run


def normal(*shape: int, dtype: mx.Dtype = mx.float32, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def pulled(function: Callable[..., mx.array], x: mx.array, *others: mx.array) -> list[mx.array]:
    """Give a result and the gradients of its arguments."""
    arrays = [x, *others]
    towards = normal(*function(*arrays).shape, dtype=x.dtype, seed=9)
    outputs, gradients = mx.vjp(function, arrays, [towards])
    return [*outputs, *gradients]


def same(found: Iterable[mx.array], expected: Iterable[mx.array], dtype: mx.Dtype) -> None:
    """Compare as closely as a type's rounding, once or twice, allows."""
    bound = 1e-5 if dtype == mx.float32 else 0.04
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        value, wanted = np.array(one.astype(mx.float32)), np.array(other.astype(mx.float32))
        np.testing.assert_allclose(value, wanted, rtol=bound, atol=bound * max(1.0, np.abs(wanted).max()) / 4)


def test_rows_are_shared_out_in_whole_loads() -> None:
    """Among threads of one warp, and not so that one of them has more than it can hold."""
    assert lanes_of(128, mx.bfloat16) == (16, 1)
    assert lanes_of(2048, mx.bfloat16) == (128, 2)
    assert lanes_of(1152, mx.bfloat16) == (16, 9)
    assert lanes_of(130, mx.bfloat16) is None
    assert lanes_of(2**15, mx.bfloat16) is None
    assert lanes_of(8, mx.bfloat16) == (1, 1)


def test_arrays_that_are_too_long_are_mlx_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel reads no more numbers as one row than an `int` counts: MLX's own operations need no such row."""
    monkeypatch.setattr(cuda_kernels, "on_cuda", lambda: True)
    one = mx.zeros((8,), mx.bfloat16)

    assert cuda_kernels.can_read_whole(2**31 - 8, one)
    assert not cuda_kernels.can_read_whole(2**31, one)


def test_nothing_gives_nothing() -> None:
    """Without a row no kernel is begun, which CUDA would refuse."""
    rows, numbers, weight = mx.zeros((0, 64)), mx.zeros((0,)), mx.ones(64)
    targets = numbers.astype(mx.int32)
    heads, angles = mx.zeros((2, 0, 3, 64)), mx.zeros((2, 0, 1, 2, 32))

    found = [
        norm_rows(rows, weight, 1e-6, rows.shape),
        norm_rows_gradient(rows, weight, 1e-6, rows),
        *gate_gradients(numbers, numbers, numbers),
        *row_losses(rows, targets),
        row_losses_gradient(rows, targets, numbers, numbers),
        unpack_words(rows.astype(mx.uint32), mx.zeros((0, 4)), mx.zeros((0, 4)), 128, 8),
        cuda_kernels.move_rows(rows, targets.reshape(2, 0), (64,)),
        cuda_kernels.rotate_halves(heads, angles, angles),
    ]

    shapes = [(0, 64), (0, 64), (0,), (0,), (0,), (0,), (0, 64), (0, 256), (2, 0, 64), heads.shape]
    assert [value.shape for value in found] == shapes


@cuda
@dtypes
@pytest.mark.parametrize("bits", WORD_ALIGNED)
def test_words_are_unpacked_as_mlx_does(bits: int, dtype: mx.Dtype) -> None:
    """A word of 32 bits to a thread."""
    linear = nn.Linear(INPUTS, OUTPUTS)
    linear.set_dtype(dtype)
    linear = linear.to_quantized(group_size=32, bits=bits)
    expected = mx.dequantize(linear.weight, linear.scales, linear.biases, group_size=32, bits=bits)
    found = unpack_words(linear.weight, linear.scales, linear.biases, 32, bits)
    same([found], [expected], dtype)


@cuda
@dtypes
@pytest.mark.parametrize(
    ("rows", "width"), [(7, 128), (300, 2048), (33, 4096), (5, 1152), (9, 2560), (4, 512), (3, 130), (1, 8)]
)
def test_norms_are_mlx_own(rows: int, width: int, dtype: mx.Dtype, elsewhere: Elsewhere) -> None:
    """Result and gradient, rows of one thread to rows of a warp, and those that are left to MLX."""
    x, weight = normal(2, rows, width, dtype=dtype), 1 + 0.1 * normal(width, dtype=dtype, seed=1)

    def norm(x: mx.array) -> mx.array:
        return rms_norm(x, weight, 1e-6)

    same(pulled(norm, x), elsewhere(pulled, norm, x), dtype)
    same(mx.compile(lambda x: pulled(norm, x))(x), elsewhere(pulled, norm, x), dtype)


@cuda
@dtypes
@pytest.mark.parametrize("shape", [(3, 5, 64), (2, 7), (1, 4096)])
def test_gates_have_both_gradients(shape: tuple[int, ...], dtype: mx.Dtype, elsewhere: Elsewhere) -> None:
    """In one pass."""
    gate, up = 3 * normal(*shape, dtype=dtype), normal(*shape, dtype=dtype, seed=1)
    same(pulled(swiglu, gate, up), elsewhere(pulled, swiglu, gate, up), dtype)


@cuda
@dtypes
def test_inputs_lie_in_any_order(dtype: mx.Dtype, elsewhere: Elsewhere) -> None:
    """Halves of wider rows, the other way round; and norms of one width with another epsilon each."""
    left, right = (half.swapaxes(0, 1) for half in mx.split(normal(40, 3, 256, dtype=dtype), 2, axis=-1))
    weight = 1 + 0.1 * normal(128, dtype=dtype, seed=1)

    same(pulled(swiglu, left, right), elsewhere(pulled, swiglu, left, right), dtype)
    for eps in (1e-6, 1.0):
        same(
            pulled(lambda x, eps=eps: rms_norm(x, weight, eps), left),
            elsewhere(pulled, lambda x, eps=eps: rms_norm(x, weight, eps), left),
            dtype,
        )


@cuda
@dtypes
@pytest.mark.parametrize(("rows", "words"), [(5, 64), (3, 151936), (2, 30)])
def test_losses_are_those_of_float32(rows: int, words: int, dtype: mx.Dtype, elsewhere: Elsewhere) -> None:
    """Sum and gradient, targets in first and last place, an infinite logit, a row that does not count."""
    logits = (8 * normal(rows, words)).astype(dtype)
    logits[0, 1] = -mx.inf
    targets = mx.array([0, words - 1, *range(7, 7 + rows - 2)])
    weights = mx.array([1.0] * (rows - 1) + [0.0])

    def run(logits: mx.array) -> tuple[mx.array, mx.array]:
        loss: tuple[mx.array, mx.array] = mx.value_and_grad(lambda logits: loss_fn(logits, targets, weights)[0])(logits)
        return loss

    (loss, gradient), (expected, wanted) = run(logits), elsewhere(run, logits)
    np.testing.assert_allclose(float(loss), float(expected), rtol=1e-5)
    same([gradient], [wanted], dtype)
    assert not gradient[-1].any()


@cuda
def test_a_logit_that_is_not_a_number_is_seen() -> None:
    """The update is guarded by the loss."""
    logits = mx.zeros((2, 64)).at[1, 5].add(mx.nan)
    assert mx.isnan(loss_fn(logits, mx.array([1, 2]), mx.ones(2))[0])


@cuda
@dtypes
def test_moved_rows_are_those_that_mlx_takes(dtype: mx.Dtype, elsewhere: Elsewhere) -> None:
    """And zeros where there is none; the gradient moves them back."""
    x = normal(6, 3, 16, dtype=dtype)
    rows = mx.array([4, 0, -1, 5, 1, 2, -1], dtype=mx.int32)
    back = mx.array([1, 4, 5, -1, 0, 3], dtype=mx.int32)

    def counted(x: mx.array) -> mx.array:
        return mx.where((rows >= 0)[:, None, None], move(x, rows, back), 0)

    assert mx.array_equal(take_rows(x, rows), elsewhere(take_rows, x, rows))
    same(pulled(counted, x), elsewhere(pulled, counted, x), dtype)


@cuda
@dtypes
def test_rows_move_between_arrays_of_several_axes(dtype: mx.Dtype, elsewhere: Elsewhere) -> None:
    """Rows of heads become rows of numbers, in an order that no axis has; the gradient has the first array's shape."""
    x = normal(2, 5, 3, 16, dtype=dtype)
    order = np.random.default_rng(0).permutation(12)
    rows = np.where(order < 10, order, -1).astype(np.int32)
    back = np.full(10, -1, dtype=np.int32)
    back[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
    to, fro = mx.array(rows.reshape(3, 4)), mx.array(back.reshape(2, 5))

    def counted(x: mx.array) -> mx.array:
        return mx.where((to >= 0)[..., None], move(x, to, fro, (48,)), 0)

    found = pulled(counted, x)
    assert [value.shape for value in found] == [(3, 4, 48), (2, 5, 3, 16)]
    same(found, elsewhere(pulled, counted, x), dtype)
    same([take_rows(x, to, (3, 16))], [elsewhere(take_rows, x, to, (3, 16))], dtype)


@cuda
@dtypes
@pytest.mark.parametrize("shape", [(2, 5, 3, 64), (1, 300, 7, 128), (3, 4, 1, 16), (1, 9, 2, 80), (2, 3, 4, 12)])
def test_rotations_are_mlx_own(shape: tuple[int, ...], dtype: mx.Dtype, elsewhere: Elsewhere) -> None:
    """Result and gradient, other angles for each place and pair; halves that are no whole loads are left to MLX."""
    n_rows, n_places, _, width = shape
    x = normal(*shape, dtype=dtype)
    # Both halves have cosines and sines of their own, so that none can stand for the other.
    cosines, sines = (normal(n_rows, n_places, 1, 2, width // 2, dtype=dtype, seed=seed) for seed in (1, 2))

    def turned(x: mx.array) -> mx.array:
        return rotate(x, cosines, sines)

    same(pulled(turned, x), elsewhere(pulled, turned, x), dtype)
    same(mx.compile(lambda x: pulled(turned, x))(x), elsewhere(pulled, turned, x), dtype)
    swapped = x.transpose(0, 2, 1, 3)
    same(
        pulled(lambda x: turned(x.transpose(0, 2, 1, 3)), mx.contiguous(swapped)),
        elsewhere(pulled, lambda x: turned(x.transpose(0, 2, 1, 3)), mx.contiguous(swapped)),
        dtype,
    )


@cuda
def test_rotations_with_angles_of_another_type_are_mlx_own(elsewhere: Elsewhere) -> None:
    """The kernel reads one type; the result has the type of what is rotated."""
    x = normal(2, 5, 3, 64, dtype=mx.bfloat16)
    cosines, sines = (normal(2, 5, 1, 2, 32, seed=seed) for seed in (1, 2))
    same(
        pulled(lambda x: rotate(x, cosines, sines), x),
        elsewhere(pulled, lambda x: rotate(x, cosines, sines), x),
        mx.bfloat16,
    )


@cuda
@dtypes
@pytest.mark.parametrize("width", [128, 8, 1152, 130])
def test_norms_of_heads_are_those_of_rows(width: int, dtype: mx.Dtype, elsewhere: Elsewhere) -> None:
    """Heads one behind another in the last axis: the result has an axis for them, the gradient has none."""
    x, weight = normal(2, 7, 3 * width, dtype=dtype), 1 + 0.1 * normal(width, dtype=dtype, seed=1)

    def norm(x: mx.array) -> mx.array:
        return rms_norm(x, weight, 1e-6, (2, 7, 3, width))

    found = pulled(norm, x)
    assert [value.shape for value in found] == [(2, 7, 3, width), x.shape]
    same(found, elsewhere(pulled, norm, x), dtype)
    rows = x.reshape(2, 7, 3, width)
    same([norm(x)], [elsewhere(rms_norm, rows, weight, 1e-6)], dtype)


@cuda
@dtypes
def test_arrays_of_many_axes_are_read_as_they_are(dtype: mx.Dtype, elsewhere: Elsewhere) -> None:
    """Norms and gates of four axes, one of which is 1."""
    x, weight = normal(1, 7, 3, 128, dtype=dtype), 1 + 0.1 * normal(128, dtype=dtype, seed=1)
    same(
        pulled(lambda x: rms_norm(x, weight, 1e-6), x),
        elsewhere(pulled, lambda x: rms_norm(x, weight, 1e-6), x),
        dtype,
    )
    up = normal(1, 7, 3, 128, dtype=dtype, seed=2)
    same(pulled(swiglu, x, up), elsewhere(pulled, swiglu, x, up), dtype)
