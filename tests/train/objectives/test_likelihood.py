"""The likelihood of tokens in each of its ways, against the definition."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from vlora.train.objectives import likelihood
from vlora.train.objectives.likelihood import token_nll


@pytest.mark.parametrize(
    "way", [token_nll, likelihood._nll, likelihood._nll_in_passes], ids=["chosen", "plain", "passes"]
)
def test_every_way_is_the_definition(way: Callable[[mx.array, mx.array], mx.array]) -> None:
    """Value and gradient, of logits as large as they may be; each token's own gradient is its own."""
    logits = 30 * mx.random.normal((5, 77), key=mx.random.key(0))
    ids, towards = mx.array([3, 0, 76, 40, 41]), mx.array([1.0, 2.0, 0.0, -1.0, 0.5])
    powers = np.exp(np.array(logits, dtype=np.float64) - np.array(logits.max(axis=-1, keepdims=True)))
    shares = powers / powers.sum(axis=-1, keepdims=True)
    own = np.eye(77)[np.array(ids)]

    (found,), (gradient,) = mx.vjp(lambda logits: way(logits, ids), [logits], [towards])

    np.testing.assert_allclose(found, -np.log((shares * own).sum(axis=-1)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, np.array(towards)[:, None] * (shares - own), rtol=1e-4, atol=1e-6)
