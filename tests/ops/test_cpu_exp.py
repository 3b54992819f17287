"""Exponentials by arithmetic, against float64 and against MLX's own functions and gradients."""

from collections.abc import Callable, Iterator

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx import nn

from tests.ops.test_functional import same_gradients
from vlora.ops import cpu_exp
from vlora.ops.cpu_exp import exponential, gelu, reduce_rows, shifted_exp_rows, sigmoid


@pytest.fixture(autouse=True, scope="module")
def slow() -> Iterator[None]:
    """Take the arithmetic's way whatever the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_exp, "has_slow_exponentials", lambda: True)
        yield


def normal(*shape: int, spread: float = 1.0, seed: int = 0) -> mx.array:
    return spread * mx.random.normal(shape, key=mx.random.key(seed))


def both_ways(function: Callable[[mx.array], mx.array], x: mx.array) -> list[np.ndarray]:
    """Run a function eagerly and compiled; in float64."""
    return [np.array(run(x)).astype(np.float64) for run in (function, mx.compile(function))]


@given(st.lists(st.floats(-87, 0, width=32), min_size=1, max_size=40))
def test_exponentials_are_exact(values: list[float]) -> None:
    """To 3e-7 of themselves."""
    expected = np.exp(np.array(values))
    for found in both_ways(exponential, mx.array(values, dtype=mx.float32)):
        np.testing.assert_allclose(found, expected, rtol=3e-7)


def test_exponentials_at_the_ends() -> None:
    """One at zero; zero, not less, where there is no normal float32; what is no number stays none."""
    ends = mx.array([0.0, -0.0, -1e-30, -88.0, -1e9, -3.4e38, -float("inf"), float("nan")])
    for found in both_ways(exponential, ends):
        assert found[:3].tolist() == [1.0, 1.0, 1.0]
        assert found[3:7].tolist() == [0.0, 0.0, 0.0, 0.0]
        assert np.isnan(found[7])


def test_exponentials_where_they_vanish() -> None:
    """From the smallest normal number down they are off by no more than it."""
    x = mx.linspace(-89, -87, 2000)
    for found in both_ways(exponential, x):
        np.testing.assert_allclose(found, np.exp(np.array(x).astype(np.float64)), rtol=3e-7, atol=1.2e-38)


@given(st.lists(st.floats(-86, 86, width=32), min_size=1, max_size=40))
def test_logistic_is_exact(values: list[float]) -> None:
    """To 5e-7 of itself, however small it is."""
    expected = 1 / (1 + np.exp(-np.array(values)))
    for found in both_ways(sigmoid, mx.array(values, dtype=mx.float32)):
        np.testing.assert_allclose(found, expected, rtol=5e-7)


def test_logistic_at_the_ends() -> None:
    """Zero and one, and no number of none."""
    for found in both_ways(sigmoid, mx.array([-float("inf"), -200.0, 200.0, float("inf"), float("nan")])):
        assert found[:4].tolist() == [0.0, 0.0, 1.0, 1.0]
        assert np.isnan(found[4])


@pytest.mark.parametrize(
    ("own", "other"),
    [
        (lambda x: exponential(-mx.abs(x)), lambda x: mx.exp(-mx.abs(x))),
        (sigmoid, mx.sigmoid),
        (lambda x: gelu(x, is_tanh=True), nn.gelu_approx),
        (lambda x: gelu(x, is_tanh=False), nn.gelu),
    ],
    ids=["exponential", "logistic", "gelu of tanh", "gelu"],
)
def test_results_and_gradients_are_mlx_own(
    own: Callable[[mx.array], mx.array], other: Callable[[mx.array], mx.array]
) -> None:
    """Eager and compiled."""
    same_gradients(own, other, [normal(2, 3, 40, spread=3.0)])


@pytest.mark.parametrize("width", [1, 7, 130, 256])
def test_powers_of_rows_make_a_softmax(width: int) -> None:
    """Of rows that are reduced at once and in stages."""
    x = normal(2, 3, width, spread=3.0)
    for run in (shifted_exp_rows, mx.compile(shifted_exp_rows)):
        powers, total, largest = run(x)
        np.testing.assert_allclose(powers / total, mx.softmax(x, axis=-1, precise=True), rtol=1e-5)
        assert mx.array_equal(largest, x.max(axis=-1, keepdims=True))


@pytest.mark.parametrize("width", [5, 128, 130, 4096])
@pytest.mark.parametrize("reduce", [mx.max, mx.sum])
def test_rows_are_reduced(reduce: Callable[..., mx.array], width: int) -> None:
    """In stages or not: to one number each."""
    x = normal(2, 3, width)
    np.testing.assert_allclose(reduce_rows(reduce, x), reduce(x, axis=-1, keepdims=True), rtol=1e-5, atol=1e-5)


def test_other_types_are_left_to_mlx() -> None:
    """A bfloat16 is no float32 of half the bits."""
    x = -mx.abs(normal(5)).astype(mx.bfloat16)

    assert mx.array_equal(exponential(x), mx.exp(x))
    assert mx.array_equal(sigmoid(x), mx.sigmoid(x))
    assert gelu(x, is_tanh=True).dtype == mx.bfloat16
