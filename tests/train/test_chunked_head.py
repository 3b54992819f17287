"""The head in chunks: the same numbers in less memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import numpy as np
import pytest

from tests.train import test_reference
from tests.train.test_grad_checkpoint import SETUPS, assert_same, gradients
from tests.training import make_trainable
from vlora import collate, make_eval_step, make_train_step, models, step_gradients
from vlora.recipe.preference import PreferenceSection
from vlora.train import chunked_head
from vlora.train.objectives.preference import make_preference_objective

CheckpointFactory = Callable[[str], Path]


@pytest.mark.parametrize("setup", ["dropout", "full"])
@pytest.mark.parametrize("family", ["qwen3_vl", "gemma3", "llava"])
def test_the_head_in_chunks(
    family: str, setup: str, checkpoint: CheckpointFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and gradients computed chunk by chunk are those of the whole model; validation sees the same loss."""
    trainable = make_trainable(checkpoint(family), optim__name="sgd", optim__betas=[0.0, 0.0], **SETUPS[setup])
    batch = collate(trainable.examples)
    head, trainable.backbone.head = trainable.backbone.head, None
    expected = gradients(trainable, batch, compiled=False)
    trainable.backbone.head = head
    monkeypatch.setattr(chunked_head, "HEAD_BYTES", 0)
    monkeypatch.setattr(chunked_head, "FEWEST_HEAD_ROWS", 3)
    found = gradients(trainable, batch)
    nll, n = make_eval_step(trainable.backbone)(trainable.state, batch)

    assert_same(found, expected)
    if setup == "full":
        assert float(nll / n) == pytest.approx(float(expected["loss"]), rel=1e-5)


@pytest.mark.parametrize(("setup", "n_runs"), [("dropout", 1), ("full", 2)])
def test_how_often_an_objective_runs_the_head(
    setup: str, n_runs: int, checkpoint: CheckpointFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once where its places are one chunk, or it is not trained, and otherwise twice; the numbers are the same."""
    trainable = make_trainable(checkpoint("qwen3_vl"), optim__name="sgd", optim__betas=[0.0, 0.0], **SETUPS[setup])
    batch = collate([row for pair in test_reference.make_pairs(trainable) for row in pair])
    objective = make_preference_objective("cpo", PreferenceSection())
    calls: list[int] = []
    project = models.MlxVlmBackbone.project

    def counted(*given: Any) -> mx.array:
        calls[-1] += 1
        return project(*given)

    monkeypatch.setattr(models.MlxVlmBackbone, "project", counted)
    monkeypatch.setattr(chunked_head, "HEAD_BYTES", 0)
    results = []
    for n_rows in (1000, 3):
        monkeypatch.setattr(chunked_head, "FEWEST_HEAD_ROWS", n_rows)
        calls.append(0)
        step = make_train_step(trainable.backbone, trainable.optimizer, loss=objective, compiled=False)
        means, output = step_gradients(step, trainable.state, [batch])
        measured = {name: total for name, (total, _) in output.metrics.items()}
        results.append({name: np.array(value) for name, value in {**means, **measured, "": output.nll_sum}.items()})

    # Once more for the number of words.
    assert calls == [2, 1 + n_runs * -(-batch.targets.positions.size // 3)]
    assert_same(results[1], results[0])


def test_chunks_follow_one_another(checkpoint: CheckpointFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """With twice the places the head needs hardly more memory: its chunks are not there at the same time."""
    trainable = make_trainable(checkpoint("qwen3_vl"))
    words = trainable.backbone.module.config.text_config.vocab_size
    monkeypatch.setattr(chunked_head, "HEAD_BYTES", 4 * words * 64)
    monkeypatch.setattr(chunked_head, "FEWEST_HEAD_ROWS", 64)
    example = trainable.examples[2]
    peaks = []
    for count in (192, 448):
        tokens, supervised = np.resize(example.tokens, 512).astype(np.int32), np.arange(512) >= 512 - count
        batch = collate([attrs.evolve(example, tokens=tokens, supervised=supervised)])
        step = make_train_step(trainable.backbone, trainable.optimizer)
        mx.reset_peak_memory()
        mx.eval(step(trainable.state, batch, 1e-3))
        peaks.append(mx.get_peak_memory())

    assert peaks[1] - peaks[0] < 2 * 64 * words * 4 + 256 * 4096
