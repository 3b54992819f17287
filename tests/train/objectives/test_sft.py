"""The loss: sums and counts over what is supervised, and nothing from anywhere else."""

import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import N_VOCABULARY, examples
from vlora import Batch, Example, collate, loss_fn
from vlora.ops import cpu_exp


def make_logits(seed: int, *shape: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    return mx.random.normal((*shape, N_VOCABULARY), key=mx.random.key(seed)).astype(dtype)


def at_targets(logits: mx.array, batch: Batch) -> mx.array:
    """Take the logits that a backbone would give."""
    return logits.reshape(-1, N_VOCABULARY)[batch.targets.positions]


def reference(logits: mx.array, rows: list[Example]) -> tuple[float, int]:
    """Sum the loss token by token, in float64, without shifting anything."""
    values = np.array(logits.astype(mx.float32)).astype(np.float64)
    nll, count = 0.0, 0
    for number, row in enumerate(rows):
        for place in range(1, len(row.tokens)):
            if row.supervised[place]:
                before = values[number, place - 1]
                nll += np.logaddexp.reduce(before) - before[row.tokens[place]]
                count += 1
    return nll, count


@given(st.lists(examples(), min_size=1, max_size=3), st.integers(0, 9), st.sampled_from([mx.float32, mx.bfloat16]))
def test_sum_and_count(rows: list[Example], seed: int, dtype: mx.Dtype) -> None:
    """The loss is the negative log-likelihood of the supervised tokens, summed in float32, with their number."""
    batch = collate(rows)
    logits = make_logits(seed, *batch.tokens.shape, dtype=dtype)

    nll, count = loss_fn(at_targets(logits, batch), batch.targets.ids, batch.targets.weights)

    expected, n_expected = reference(logits, rows)
    assert (nll.dtype, count.dtype) == (mx.float32, mx.float32)
    assert count.item() == n_expected == sum(row.supervised.sum() for row in rows)
    assert math.isclose(float(nll), expected, rel_tol=1e-5, abs_tol=1e-5)


@given(st.lists(examples(), min_size=1, max_size=3), st.integers(0, 9))
def test_company_and_padding_do_not_matter(rows: list[Example], seed: int) -> None:
    """A row's loss is the same alone and in a batch, in whatever order, with whatever padding token and fillers."""

    def total(batch_rows: list[Example], **options: int) -> float:
        batch = collate(batch_rows, **options)
        # Logits that depend on the tokens before them only, as a causal model's do.
        table = make_logits(seed, N_VOCABULARY)
        return float(loss_fn(at_targets(table[batch.tokens], batch), batch.targets.ids, batch.targets.weights)[0])

    alone = sum(total([row]) for row in rows)

    assert math.isclose(total(rows), alone, rel_tol=1e-5, abs_tol=1e-4)
    assert math.isclose(total(rows[::-1], batch_size=len(rows) + 2, pad_id=3), alone, rel_tol=1e-5, abs_tol=1e-4)


@given(examples(), st.integers(0, 9))
def test_only_predictions_of_targets_get_gradients(row: Example, seed: int) -> None:
    """The gradient of a logit is zero unless it predicts a supervised token."""
    batch = collate([row])
    gradient = mx.grad(lambda logits: loss_fn(at_targets(logits, batch), batch.targets.ids, batch.targets.weights)[0])(
        make_logits(seed, *batch.tokens.shape)
    )

    touched = np.array(mx.any(gradient != 0, axis=-1))[0]
    assert touched[: len(row.tokens) - 1].tolist() == row.supervised[1:].tolist()
    assert not touched[len(row.tokens) - 1 :].any()


def test_ids_beyond_the_logits_are_harmless() -> None:
    """An id beyond the vocabulary (Mllama's image token) that is not supervised changes neither loss nor gradient."""

    def run(token: int) -> tuple[mx.array, mx.array]:
        row = Example(
            source="row",
            tokens=np.array([1, token, 2, 3], dtype=np.int32),
            supervised=np.array([False, False, True, True]),
            placeholders=np.zeros(4, dtype=np.bool_),
        )
        batch = collate([row])
        return mx.value_and_grad(
            lambda values: loss_fn(at_targets(values, batch), batch.targets.ids, batch.targets.weights)[0]
        )(make_logits(0, *batch.tokens.shape))

    for found, expected in zip(run(N_VOCABULARY + 10**6), run(0), strict=True):
        assert mx.isfinite(found).all()
        assert mx.array_equal(found, expected)


def test_nothing_supervised() -> None:
    """Without supervised tokens loss, count and gradient are zero, not NaN."""
    targets, weights = mx.zeros((3,), dtype=mx.int32), mx.zeros((3,))

    (nll, count), gradient = mx.value_and_grad(lambda logits: loss_fn(logits, targets, weights))(make_logits(0, 3))

    assert (nll.item(), count.item()) == (0.0, 0.0)
    assert not gradient.any()


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_does_not_count_cannot_spoil_the_loss(value: float) -> None:
    """A logit that is not finite, at a place that does not count, leaves the loss finite."""
    targets, weights = mx.array([2, 0, 0]), mx.array([1.0, 0.0, 0.0])
    logits = make_logits(0, 3)
    spoilt = mx.concatenate([logits[:1], mx.full((2, N_VOCABULARY), value)])

    assert loss_fn(spoilt, targets, weights)[0].item() == loss_fn(logits, targets, weights)[0].item()


def test_loss_can_be_compiled() -> None:
    """The loss gives the same inside a compiled function."""
    targets, weights = mx.array([2, 3, 0]), mx.array([1.0, 1.0, 0.0])
    logits = make_logits(0, 3)

    nll, count = loss_fn(logits, targets, weights)
    found = mx.compile(loss_fn)(logits, targets, weights)
    assert math.isclose(float(found[0]), float(nll), rel_tol=1e-6)
    assert found[1].item() == count.item() == 2


@pytest.mark.parametrize("n_words", [7, 130, 4096])
def test_the_same_in_passes(n_words: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where exponentials are slow the loss is computed otherwise: result and gradient are the same."""
    logits = 3 * mx.random.normal((2, 3, n_words), key=mx.random.key(0))
    targets = mx.random.randint(0, n_words, (2, 3), key=mx.random.key(1))
    weights = mx.array([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])

    found = []
    for is_slow in (True, False):
        monkeypatch.setattr(cpu_exp, "has_slow_exponentials", lambda is_slow=is_slow: is_slow)
        run = mx.value_and_grad(lambda logits: loss_fn(logits, targets, weights)[0])
        found += [run(logits), mx.compile(run)(logits)]

    for loss, gradient in found[1:]:
        assert math.isclose(float(loss), float(found[0][0]), rel_tol=1e-6)
        np.testing.assert_allclose(gradient, found[0][1], rtol=1e-5, atol=1e-7)
