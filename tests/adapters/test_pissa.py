"""The principal factors of weights against numpy's decomposition."""

import mlx.core as mx
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.adapters.test_layers import SCALE
from vlora.adapters.pissa import pissa_factors


@given(seed=st.integers(0, 100), rank=st.integers(1, 8))
def test_principal_factors_are_the_best_of_their_rank(seed: int, rank: int) -> None:
    """Their product is the truncated singular value decomposition."""
    weight = np.random.default_rng(seed).normal(size=(12, 20)).astype(np.float32)
    left, values, right = np.linalg.svd(weight)

    a, b = pissa_factors(mx.array(weight), rank, SCALE, mx.random.key(0))

    best = left[:, :rank] * values[:rank] @ right[:rank]
    assert np.allclose(SCALE * np.array(a @ b).T, best, atol=1e-4)


def test_principal_factors_of_large_weights() -> None:
    """Subspace iteration comes within a hair of the best error, on weights with a slowly falling spectrum."""
    generator = np.random.default_rng(0)
    left, _ = np.linalg.qr(generator.normal(size=(300, 200)))
    right, _ = np.linalg.qr(generator.normal(size=(200, 200)))
    values = 1 / np.sqrt(1 + np.arange(200))
    weight = (left * values @ right.T).astype(np.float32)

    a, b = pissa_factors(mx.array(weight), 8, SCALE, mx.random.key(0))

    error = np.linalg.norm(weight - SCALE * np.array(a @ b).T)
    assert error < 1.001 * np.linalg.norm(values[8:])
