"""Gradients of a step that is not taken."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from tests.training import make_trainable
from vlora import collate, make_train_step, step_gradients

CheckpointFactory = Callable[[str], Path]


@pytest.mark.parametrize("train_vision", [False, True])
def test_gradients_are_those_of_the_step(train_vision: bool, checkpoint: CheckpointFactory) -> None:
    """Of two microbatches or of one with their rows; nothing is traced twice, and no state changes."""
    trainable = make_trainable(checkpoint("qwen3_vl"), model__train_vision=train_vision)
    step, state = make_train_step(trainable.backbone, trainable.optimizer, max_grad_norm=1e-6), trainable.state
    batches = [collate(trainable.examples[:2], 2), collate(trainable.examples[2:4], 2)]
    before = {name: np.array(value) for name, value in state.params.items()}

    found, measured = step_gradients(step, state, batches)
    n_traces = step.n_traces
    _, taken = step(state, batches, 1e-3)
    together, whole = step_gradients(step, state, collate(trainable.examples[:4], 4))

    assert step.n_traces == n_traces + 1
    assert list(found) == list(state.params)
    assert {value.dtype for value in found.values()} == {mx.float32}
    assert float(measured.nll_sum) == float(taken.nll_sum)
    assert float(measured.grad_norm) == pytest.approx(float(taken.grad_norm), rel=1e-5)
    norm = np.sqrt(sum(float((value**2).sum()) for value in found.values()))
    # As it is before it is clipped.
    assert norm == pytest.approx(float(measured.grad_norm), rel=1e-5)
    assert float(whole.nll_sum) == pytest.approx(float(measured.nll_sum), rel=1e-4)
    for name, value in together.items():
        largest = float(mx.abs(value).max())
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-5 * largest + 1e-8, err_msg=name)
        assert np.array_equal(before[name], state.params[name]), name
