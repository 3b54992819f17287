"""The likelihood of tokens in each of its ways, against the definition."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from vlora.train.objectives import likelihood
from vlora.train.objectives.likelihood import token_nll, token_nll_with_statistics


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


@pytest.mark.parametrize("has_slow", [True, False])
def test_statistics_are_those_of_the_distribution(has_slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against NumPy in float64, far logits included; no gradient flows through them, and the loss is that without."""
    monkeypatch.setattr("vlora.ops.cpu_exp.has_slow_exponentials", lambda: has_slow)
    generator = np.random.default_rng(3)
    logits = (generator.standard_normal((6, 37)) * 8).astype(np.float32)
    logits[0] += 300
    ids = logits.argmax(axis=-1)
    ids[3:] = (ids[3:] + 1) % 37
    exact = logits.astype(np.float64)
    shares = np.exp(exact - exact.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)

    given = mx.array(logits), mx.array(ids.astype(np.int32))
    nll, statistics = token_nll_with_statistics(*given)
    found = np.asarray(statistics)

    def summed(each: mx.array) -> mx.array:
        both = token_nll_with_statistics(each, given[1])
        return both[0].sum() + both[1].sum()

    gradient = mx.grad(summed)(given[0])

    assert mx.array_equal(nll, token_nll(*given))
    assert mx.array_equal(gradient, mx.grad(lambda each: token_nll(each, given[1]).sum())(given[0]))
    np.testing.assert_allclose(found[:, 0], exact.mean(axis=-1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[:, 1], -(shares * np.log(shares)).sum(axis=-1), rtol=1e-3, atol=2e-4)
    np.testing.assert_array_equal(found[:, 2], [1, 1, 1, 0, 0, 0])
