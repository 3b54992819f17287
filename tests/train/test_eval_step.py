"""The validation step: the loss of a state, without dropout, whatever the model holds."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training import make_trainable
from vlora import collate, make_eval_step, make_train_step, unbind

CheckpointFactory = Callable[[str], Path]


@pytest.mark.parametrize("keys", [{"lora__dropout": 0.3}, {"model__train_vision": True}], ids=["dropout", "vision"])
def test_validation_sees_the_state(keys: dict[str, float | bool], checkpoint: CheckpointFactory) -> None:
    """Twice the same, compiled or not, before a training step as after it; and with the new state another loss."""
    trainable = make_trainable(checkpoint("qwen3_vl"), **keys)
    batch = collate(trainable.examples)
    compiled, eager = (make_eval_step(trainable.backbone, compiled=compiled) for compiled in (True, False))
    unbind(trainable.backbone)
    before = float(compiled(trainable.state, batch)[0])
    state, _ = make_train_step(trainable.backbone, trainable.optimizer)(trainable.state, batch, 1e-2)

    assert float(compiled(trainable.state, batch)[0]) == before
    assert float(eager(trainable.state, batch)[0]) == pytest.approx(before, rel=1e-5)
    assert float(compiled(state, batch)[0]) != pytest.approx(before, rel=1e-4)
    assert float(compiled(state, batch)[1]) == sum(row.supervised.sum() for row in trainable.examples)
