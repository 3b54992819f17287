"""Clipping against numpy."""

import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlora.train.clipping import clip_by_global_norm


@given(
    st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=5), min_size=1, max_size=4),
    st.floats(1e-3, 1e3),
)
def test_clipping(values: list[list[float]], max_norm: float) -> None:
    """All gradients are scaled alike, so that their global norm is at most the maximum, and the norm before is told."""
    trees = {f"layer.{index}": mx.array(row) for index, row in enumerate(values)}
    flat = np.concatenate([np.array(row, dtype=np.float32).astype(np.float64) for row in values])
    expected = np.sqrt((flat**2).sum())

    clipped, norm = clip_by_global_norm(trees, max_norm)

    found = np.concatenate([np.array(clipped[name]) for name in trees])
    assert norm.dtype == mx.float32
    assert math.isclose(float(norm), expected, rel_tol=1e-5, abs_tol=1e-12)
    assert np.linalg.norm(found) <= max_norm * (1 + 1e-5)
    assert np.allclose(found, flat * min(1.0, max_norm / (expected + 1e-6)), rtol=1e-4, atol=1e-6)


def test_clipping_in_float32() -> None:
    """Gradients whose squares have no place in half precision are clipped in float32."""
    gradients = {"a": mx.full((4,), 300.0, dtype=mx.float16), "b": mx.full((4,), 400.0, dtype=mx.float16)}

    clipped, norm = clip_by_global_norm(gradients, 1.0)

    assert math.isclose(float(norm), 1000.0, rel_tol=1e-5)
    assert mx.allclose(clipped["a"].astype(mx.float32), mx.full((4,), 0.3), rtol=1e-3)


def test_no_clipping() -> None:
    """Without a maximum the gradients stay what they are, and the norm is still told."""
    gradients = {"a": mx.array([3.0]), "b": mx.array([4.0])}

    same, norm = clip_by_global_norm(gradients, None)

    assert same is gradients
    assert norm.item() == 5.0


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=9), st.integers(1, 1000))
def test_dividing_and_clipping(values: list[float], count: int) -> None:
    """Sums that are divided by a count are clipped as their means are, whatever the number of parameters."""
    sums = {str(index): mx.array([value]) for index, value in enumerate(values)}
    means = {name: value / count for name, value in sums.items()}

    expected, expected_norm = clip_by_global_norm(means, 1.0)
    found, norm = clip_by_global_norm(sums, 1.0, mx.array(float(count)))

    assert math.isclose(float(norm), float(expected_norm), rel_tol=1e-5, abs_tol=1e-12)
    assert all(mx.allclose(found[name], expected[name], rtol=1e-5, atol=1e-7) for name in sums)


@given(size=st.integers(1, 3_000_000))
@settings(max_examples=10)
def test_norm_of_many_is_exact(size: int) -> None:
    """Of millions of numbers, as packed parameters have, too."""
    values = np.random.default_rng(size).standard_normal(size, dtype=np.float32)
    _, norm = clip_by_global_norm({"packed": mx.array(values)}, None)
    assert float(norm) == pytest.approx(np.linalg.norm(values.astype(np.float64)), rel=1e-6)
