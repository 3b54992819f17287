"""Attention in whole tiles: what mlx-vlm's own gives, forward and backward; the fused kernels where there are some."""

import io
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_vlm.models.base import scaled_dot_product_attention

from vlora.models.forward import attention_masks
from vlora.models.forward.attention_masks import TILE, attend_fused
from vlora.ops.cuda_kernels import on_cuda
from vlora.ops.custom_vjp import custom_vjp

SCALE = 0.25
MASKS = ["causal", "square", "of rows", "of heads", "numbers", "none"]


def drawn(n_places: int, dtype: mx.Dtype, width: int = 16) -> list[mx.array]:
    """Draw queries of four heads, keys and values of two, and a gradient, as they come from their projections."""
    heads = (4, 2, 2, 4)
    return [
        mx.random.normal((2, n_places, n, width), key=mx.random.key(n + 7 * number)).transpose(0, 2, 1, 3).astype(dtype)
        for number, n in enumerate(heads)
    ]


def mask_of(kind: str, n_places: int, dtype: mx.Dtype) -> Any:
    """Make a mask; every place sees itself."""
    if kind in ("causal", "none"):
        return "causal" if kind == "causal" else None
    shape = {"of rows": (2, 1, n_places, n_places), "of heads": (2, 4, n_places, n_places)}.get(kind, (n_places,) * 2)
    seen = mx.random.bernoulli(0.5, shape, key=mx.random.key(3)) | mx.eye(n_places, dtype=mx.bool_)
    return mx.where(seen, 0, attention_masks.UNSEEN).astype(dtype) if kind == "numbers" else seen


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("n_places", [5, 64, 100, 128, 200])
def test_attention_in_tiles_is_attention(kind: str, n_places: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, which is padded here as bfloat16 is elsewhere: results and gradients."""
    monkeypatch.setattr(attention_masks, "ADDED", (mx.float32,))
    *parts, towards = drawn(n_places, mx.float32)
    mask = mask_of(kind, n_places, mx.float32)

    found, expected = (
        mx.vjp(lambda q, k, v, attend=attend: attend(q, k, v, None, SCALE, mask), parts, [towards])
        for attend in (attend_fused, scaled_dot_product_attention)
    )

    for one, other in zip([*found[0], *found[1]], [*expected[0], *expected[1]], strict=True):
        assert one.shape == other.shape
        assert mx.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_place_that_sees_nothing_stays_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding of packed rows sees no place: numbers all the same."""
    monkeypatch.setattr(attention_masks, "ADDED", (mx.float32,))
    *parts, towards = drawn(100, mx.float32)
    mask = mx.zeros((2, 1, 100, 100), dtype=mx.bool_)

    outputs, gradients = mx.vjp(lambda q, k, v: attend_fused(q, k, v, None, SCALE, mask), parts, [towards])

    assert all(mx.isfinite(value).all() for value in (*outputs, *gradients))


@pytest.mark.parametrize(
    ("n_places", "width", "kind"), [(TILE, 16, "causal"), (8, 16, "causal"), (100, 136, "causal"), (100, 16, "numbers")]
)
def test_what_no_kernel_takes_is_left_alone(n_places: int, width: int, kind: str) -> None:
    """Whole tiles, short rows, wide heads, and numbers that a model adds and may train, are not padded."""
    *parts, _ = drawn(n_places, mx.bfloat16, width)
    mask = mask_of(kind, n_places, mx.bfloat16)

    kernels: tuple[Any, ...] = (attend_fused, scaled_dot_product_attention)
    outputs = (attend(*parts, None, SCALE, mask) for attend in kernels)

    shapes: list[str] = []
    for output in outputs:
        file = io.StringIO()
        mx.export_to_dot(file, output)
        shapes.append(file.getvalue())
    assert shapes[0].count("Concatenate") == shapes[1].count("Concatenate")


@pytest.mark.parametrize("is_compiled", [False, True], ids=["eager", "compiled"])
def test_the_gradient_comes_back_in_one_layout(is_compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whole tiles and of padded rows: MLX's CUDA backend takes the one for the other where it changes."""
    monkeypatch.setattr(attention_masks, "ADDED", (mx.float32,))
    strides: list[tuple[int, ...]] = []

    def watched(queries: mx.array, keys: mx.array, values: mx.array, *_: Any) -> mx.array:
        @custom_vjp(keeps="inputs")
        def attend(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
            return queries + 0 * (keys.sum() + values.sum())

        @attend.vjp
        def attend_vjp(primals: tuple[mx.array, ...], cotangent: mx.array) -> tuple[mx.array, ...]:
            seen.append(cotangent)
            return tuple(mx.zeros_like(primal) for primal in primals)

        mixed: mx.array = attend(queries, keys, values)
        return mixed

    monkeypatch.setattr(attention_masks, "scaled_dot_product_attention", watched)
    for n_places in (TILE, TILE - 28):
        *parts, towards = drawn(n_places, mx.float32)
        for layout in (towards, mx.contiguous(towards)):
            seen: list[mx.array] = []

            def pull(towards: mx.array, parts: list[mx.array] = parts, seen: list[mx.array] = seen) -> list[mx.array]:
                gradients = mx.vjp(lambda q, k, v: attend_fused(q, k, v, None, SCALE, "causal"), parts, [towards])[1]
                return [*gradients, *seen]

            found = (mx.compile(pull) if is_compiled else pull)(layout)[-1]
            mx.eval(found)
            strides.append(np.asarray(found).strides)

    assert len(strides) == 4
    assert set(strides) == {strides[0]}


@pytest.mark.skipif(not on_cuda(), reason="kernels for an NVIDIA GPU")
def test_rows_of_a_whole_tile_and_padded_ones_have_gradients_of_their_own() -> None:
    """One after the other in a process, the gradient as a projection behind attention gives it back."""
    for n_places in (TILE, TILE - 28, TILE):
        *parts, towards = drawn(n_places, mx.bfloat16, 64)
        exact = [part.astype(mx.float32) for part in (*parts, towards)]
        found = mx.vjp(lambda q, k, v: attend_fused(q, k, v, None, SCALE, "causal"), parts, [towards])[1]
        own = mx.vjp(lambda *p: scaled_dot_product_attention(*p, None, SCALE, "causal"), exact[:3], [exact[3]])[1]
        for one, other in zip(found, own, strict=True):
            assert mx.abs(one.astype(mx.float32) - other).max() <= 0.02 * mx.abs(other).max()


@pytest.mark.skipif(not on_cuda(), reason="kernels for an NVIDIA GPU")
@pytest.mark.parametrize("kind", ["causal", "of rows"])
@pytest.mark.parametrize("n_places", [TILE, 200, 448])
def test_the_gradient_has_a_kernel(kind: str, n_places: int) -> None:
    """No softmax is written out, and the numbers are those of float32."""
    *parts, towards = drawn(n_places, mx.bfloat16, 64)
    mask = mask_of(kind, n_places, mx.bfloat16)

    outputs, gradients = mx.vjp(lambda q, k, v: attend_fused(q, k, v, None, SCALE, mask), parts, [towards])

    file = io.StringIO()
    mx.export_to_dot(file, *gradients)
    assert "Softmax" not in file.getvalue()
    assert "ScaledDotProductAttentionVJP" in file.getvalue()
    exact = [part.astype(mx.float32) for part in (*parts, towards)]
    expected = mx.vjp(lambda q, k, v: scaled_dot_product_attention(q, k, v, None, SCALE, mask), exact[:3], [exact[3]])
    for one, other in zip([*outputs, *gradients], [*expected[0], *expected[1]], strict=True):
        assert mx.abs(one.astype(mx.float32) - other).max() <= 0.02 * mx.abs(other).max()
