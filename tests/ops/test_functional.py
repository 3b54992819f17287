"""Functions with gradients of their own against MLX's gradients of the plain ones."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora.ops.functional import attend, rms_norm, rotate, swiglu

sizes = st.integers(1, 5)


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


def plain_swiglu(gate: mx.array, up: mx.array) -> mx.array:
    return gate * mx.sigmoid(gate) * up


def plain_rotation(x: mx.array, cosines: mx.array, sines: mx.array) -> mx.array:
    """As transformers writes it: x cos + rotate_half(x) sin."""
    first, second = mx.split(x, 2, axis=-1)
    half = mx.concatenate([-second, first], axis=-1)
    return x * cosines.reshape(*cosines.shape[:3], -1) + half * mx.abs(sines).reshape(*sines.shape[:3], -1)


def same_gradients(one: Callable[..., mx.array], other: Callable[..., mx.array], arrays: list[mx.array]) -> None:
    """Compare results and gradients, eager and compiled."""
    towards = normal(*one(*arrays).shape, seed=9)

    def pull(function: Callable[..., mx.array]) -> Callable[..., list[mx.array]]:
        def run(*arrays: mx.array) -> list[mx.array]:
            outputs, gradients = mx.vjp(function, list(arrays), [towards])
            return [*outputs, *gradients]

        return run

    expected = pull(other)(*arrays)
    for found in (pull(one)(*arrays), mx.compile(pull(one))(*arrays)):
        for value, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-5)


@given(rows=sizes, width=sizes)
def test_swiglu_is_its_definition(rows: int, width: int) -> None:
    """Result and both gradients."""
    same_gradients(swiglu, plain_swiglu, [3 * normal(rows, width), normal(rows, width, seed=1)])


@given(batch=sizes, tokens=sizes, heads=sizes, pairs=sizes)
def test_rotation_is_its_definition(batch: int, tokens: int, heads: int, pairs: int) -> None:
    """Pairs of a head's halves are turned, and gradients are turned back."""
    angles = mx.random.uniform(0, np.pi, (batch, tokens, 1, 1, pairs), key=mx.random.key(3))
    cosines = mx.concatenate([mx.cos(angles)] * 2, axis=-2)
    sines = mx.concatenate([-mx.sin(angles), mx.sin(angles)], axis=-2)
    x = normal(batch, tokens, heads, 2 * pairs)
    same_gradients(lambda x: rotate(x, cosines, sines), lambda x: plain_rotation(x, cosines, sines), [x])


@given(rows=sizes, width=st.integers(2, 9))
def test_norm_is_mlx_own(rows: int, width: int) -> None:
    """Result and gradient; none is computed for the weight."""
    weight = normal(width, seed=4)
    same_gradients(
        lambda x: rms_norm(x, weight, 1e-5), lambda x: mx.fast.rms_norm(x, weight, 1e-5), [normal(rows, width)]
    )


@given(rows=sizes, heads=sizes, width=st.integers(2, 9))
def test_norm_of_heads_gives_them_an_axis(rows: int, heads: int, width: int) -> None:
    """Result and gradient are those of rows of heads."""
    weight = normal(width, seed=4)
    same_gradients(
        lambda x: rms_norm(x, weight, 1e-5, (rows, heads, width)),
        lambda x: mx.fast.rms_norm(x.reshape(rows, heads, width), weight, 1e-5),
        [normal(rows, heads * width)],
    )


@pytest.mark.parametrize("types", [(mx.bfloat16, mx.float32), (mx.float32, mx.bfloat16)], ids=str)
def test_a_norm_of_another_type_gives_a_gradient_of_its_inputs(types: tuple[mx.Dtype, mx.Dtype]) -> None:
    """As MLX's own does: result and gradient have the types that they have there."""
    x, weight = normal(3, 8).astype(types[0]), normal(8, seed=4).astype(types[1])
    towards = mx.ones_like(mx.fast.rms_norm(x, weight, 1e-5))
    found = mx.vjp(lambda x: rms_norm(x, weight, 1e-5), [x], [towards])
    expected = mx.vjp(lambda x: mx.fast.rms_norm(x, weight, 1e-5), [x], [towards])
    for (value,), (wanted,) in zip(found, expected, strict=True):
        assert value.dtype == wanted.dtype
        assert mx.abs(value - wanted).max() < 0.05


N_ROWS, N_HEADS, N_TOKENS = 2, 4, 6
SOME = np.random.default_rng(0).random((N_ROWS, N_HEADS, N_TOKENS, N_TOKENS)) < 0.5


@pytest.mark.parametrize(
    "mask",
    [
        None,
        "causal",
        mx.array(SOME),
        mx.array(SOME[:, :1]),
        mx.array(SOME[0, 0]),
        mx.zeros((N_TOKENS, N_TOKENS), dtype=mx.bool_),
    ],
    ids=["none", "causal", "of heads", "of rows", "of all", "nothing"],
)
@pytest.mark.parametrize("n_groups", [1, 2, N_HEADS])
def test_attention_is_mlx_own(mask: mx.array | str | None, n_groups: int) -> None:
    """Result and gradients, whatever is masked, however many heads share keys."""
    shapes = [(N_ROWS, N_HEADS, N_TOKENS, 8), (N_ROWS, n_groups, N_TOKENS, 8), (N_ROWS, n_groups, N_TOKENS, 5)]
    arrays = [mx.random.normal(shape, key=mx.random.key(number)) for number, shape in enumerate(shapes)]

    same_gradients(
        lambda q, k, v: attend(q, k, v, 0.3, mask),
        lambda q, k, v: mx.fast.scaled_dot_product_attention(q, k, v, scale=0.3, mask=mask),
        arrays,
    )
