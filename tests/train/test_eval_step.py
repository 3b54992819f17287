"""The validation step: the loss of a state, without dropout, whatever the model holds."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from tests.train.test_loop import make_batch, start
from tests.training import make_trainable
from vlora import Batch, TrainState, collate, evaluate, make_eval_step, make_train_step, unbind

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


def test_evaluation_reads_all_sums() -> None:
    """The mean is over all batches' terms, the last one's too; without batches it is 0 over none."""
    sums = {1: (3.0, 1.0), 2: (5.0, 3.0), 3: (4.0, 2.0)}

    def eval_step(_: TrainState, batch: Batch) -> tuple[mx.array, mx.array]:
        nll, n = sums[int(batch.rows[0].source.split()[1])]
        return mx.array(nll), mx.array(n)

    assert evaluate(eval_step, start(), (make_batch(number) for number in sums)) == (2.0, 6)
    assert evaluate(eval_step, start(), ()) == (0.0, 0)
    batches = [make_batch(1), make_batch(2)._replace(is_stand_in=True), make_batch(3)]
    assert evaluate(eval_step, start(), batches) == (7.0 / 3.0, 4)
