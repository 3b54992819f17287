"""The loss: sums and counts over what is supervised, and nothing from anywhere else."""

import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import N_VOCABULARY, examples
from vlora import Example, collate, loss_fn
from vlora.losses import shift_targets


def make_logits(seed: int, *shape: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    return mx.random.normal((*shape, N_VOCABULARY), key=mx.random.key(seed)).astype(dtype)


def reference(logits: mx.array, tokens: np.ndarray, supervised: np.ndarray) -> tuple[float, int]:
    """Sum the loss token by token, in float64, without shifting anything."""
    values = np.array(logits.astype(mx.float32)).astype(np.float64)
    nll, count = 0.0, 0
    for row in range(tokens.shape[0]):
        for place in range(1, tokens.shape[1]):
            if supervised[row, place]:
                before = values[row, place - 1]
                nll += np.logaddexp.reduce(before) - before[tokens[row, place]]
                count += 1
    return nll, count


@given(st.lists(examples(), min_size=1, max_size=3), st.integers(0, 9), st.sampled_from([mx.float32, mx.bfloat16]))
def test_sum_and_count(rows: list[Example], seed: int, dtype: mx.Dtype):
    """The loss is the negative log-likelihood of the supervised tokens, summed in float32, with their number."""
    batch = collate(rows)
    logits = make_logits(seed, *batch.tokens.shape, dtype=dtype)

    nll, count = loss_fn(logits, *shift_targets(batch.tokens, batch.supervised))

    expected, n_expected = reference(logits, np.array(batch.tokens), np.array(batch.supervised))
    assert (nll.dtype, count.dtype) == (mx.float32, mx.float32)
    assert count.item() == n_expected == sum(row.supervised.sum() for row in rows)
    assert math.isclose(nll.item(), expected, rel_tol=1e-5, abs_tol=1e-5)


@given(st.lists(examples(), min_size=1, max_size=3), st.integers(0, 9))
def test_company_and_padding_do_not_matter(rows: list[Example], seed: int):
    """A row's loss is the same alone and in a batch, in whatever order, with whatever padding token and fillers."""

    def total(batch_rows: list[Example], **options: int) -> float:
        batch = collate(batch_rows, **options)
        # Logits that depend on the tokens before them only, as a causal model's do.
        table = make_logits(seed, N_VOCABULARY)
        return loss_fn(table[batch.tokens], *shift_targets(batch.tokens, batch.supervised))[0].item()

    alone = sum(total([row]) for row in rows)

    assert math.isclose(total(rows), alone, rel_tol=1e-5, abs_tol=1e-4)
    assert math.isclose(total(rows[::-1], batch_size=len(rows) + 2, pad_id=3), alone, rel_tol=1e-5, abs_tol=1e-4)


@given(examples(), st.integers(0, 9))
def test_only_predictions_of_targets_get_gradients(row: Example, seed: int):
    """The gradient of a logit is zero unless it predicts a supervised token."""
    batch = collate([row])
    targets, weights = shift_targets(batch.tokens, batch.supervised)
    gradient = mx.grad(lambda logits: loss_fn(logits, targets, weights)[0])(make_logits(seed, *batch.tokens.shape))

    touched = np.array(mx.any(gradient != 0, axis=-1))[0]
    assert touched[: len(row.tokens) - 1].tolist() == row.supervised[1:].tolist()
    assert not touched[len(row.tokens) - 1 :].any()


@given(examples())
def test_shift(row: Example):
    """Each place's target is the next token where that is supervised, otherwise a token that every model has."""
    batch = collate([row])
    targets, weights = (np.array(array)[0] for array in shift_targets(batch.tokens, batch.supervised))

    places = np.flatnonzero(weights)
    assert places.tolist() == (np.flatnonzero(row.supervised) - 1).tolist()
    assert targets[places].tolist() == row.tokens[places + 1].tolist()
    assert not targets[weights == 0].any()
    assert set(weights.tolist()) <= {0.0, 1.0}


def test_ids_beyond_the_logits_are_harmless():
    """An id beyond the vocabulary (Mllama's image token) that is not supervised changes neither loss nor gradient."""
    tokens = mx.array([[1, N_VOCABULARY + 10**6, 2, 3]])
    plain = mx.array([[1, 0, 2, 3]])
    supervised = mx.array([[False, False, True, True]])
    logits = make_logits(0, 1, 4)

    def run(ids: mx.array) -> tuple[mx.array, mx.array]:
        shifted = shift_targets(ids, supervised)
        return mx.value_and_grad(lambda values: loss_fn(values, *shifted)[0])(logits)

    for found, expected in zip(run(tokens), run(plain), strict=True):
        assert mx.isfinite(found).all()
        assert mx.array_equal(found, expected)


def test_nothing_supervised():
    """Without supervised tokens loss, count and gradient are zero, not NaN."""
    targets, weights = shift_targets(mx.array([[1, 2, 3]]), mx.zeros((1, 3), dtype=mx.bool_))

    (nll, count), gradient = mx.value_and_grad(lambda logits: loss_fn(logits, targets, weights))(make_logits(0, 1, 3))

    assert (nll.item(), count.item()) == (0.0, 0.0)
    assert not gradient.any()


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_does_not_count_cannot_spoil_the_loss(value: float):
    """A logit that is not finite, at a place that does not count, leaves the loss finite."""
    targets, weights = shift_targets(mx.array([[1, 2, 3]]), mx.array([[False, True, False]]))
    logits = make_logits(0, 1, 3)
    spoilt = mx.concatenate([logits[:, :1], mx.full((1, 2, N_VOCABULARY), value)], axis=1)

    assert loss_fn(spoilt, targets, weights)[0].item() == loss_fn(logits, targets, weights)[0].item()


def test_loss_can_be_compiled():
    """The loss gives the same inside a compiled function."""
    tokens, supervised = mx.array([[1, 2, 3, 4]]), mx.array([[False, True, False, True]])
    logits = make_logits(0, 1, 4)

    @mx.compile
    def compiled(logits: mx.array, tokens: mx.array, supervised: mx.array) -> tuple[mx.array, mx.array]:
        return loss_fn(logits, *shift_targets(tokens, supervised))

    nll, count = loss_fn(logits, *shift_targets(tokens, supervised))
    found = compiled(logits, tokens, supervised)
    assert math.isclose(found[0].item(), nll.item(), rel_tol=1e-6)
    assert found[1].item() == count.item() == 2
