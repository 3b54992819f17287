"""What dropout drops depends on the seed and the step alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from tests.training import make_trainable
from vlora import collate, make_eval_step, make_train_step
from vlora.train.dropout import KEYS

RATE = 1e-2

CheckpointFactory = Callable[[str], Path]


def test_dropout_depends_on_seed_and_step_alone(checkpoint: CheckpointFactory) -> None:
    """The same seed and step drop the same inputs, checkpointed or not; another step or seed drops others."""
    trainable = make_trainable(checkpoint("qwen3_vl"), lora__dropout=0.3)
    batch = collate(trainable.examples)

    def loss(*, seed: int = 0, step: int = 0, **options: Any) -> tuple[float, float]:
        run = make_train_step(trainable.backbone, trainable.optimizer, seed=seed, **options)
        output = run(trainable.state._replace(step=mx.array(step)), batch, RATE)[1]
        return float(output.nll_sum), float(output.grad_norm)

    first = loss()

    assert loss() == first
    assert loss(grad_checkpoint=True) == pytest.approx(first, rel=1e-5)
    assert loss(compiled=False) == pytest.approx(first, rel=1e-5)
    assert loss(seed=1)[0] != pytest.approx(first[0], rel=1e-5)
    assert loss(step=1)[0] != pytest.approx(first[0], rel=1e-5)
    assert float(make_eval_step(trainable.backbone)(trainable.state, batch)[0]) != pytest.approx(first[0], rel=1e-5)


def test_dropout_keys_differ() -> None:
    """For every seed, step and microbatch, also where seeds' lowest bits are equal; the old rule stays as it was."""
    seeds = [0, 1, 2, 2**20, 2**20 + 1, 2**32, 2**40, 2**52, 2**62, 2**63 - 1]
    steps, microbatches = [0, 1, 2, 1000, 2**31 - 1], [0, 1, 2, 4095, 4096, 4097]

    def keys(version: int, seeds: list[int]) -> list[tuple[int, ...]]:
        made = [KEYS[version](seed) for seed in seeds]
        found = [key(index, mx.array(step)) for key in made for step in steps for index in microbatches]
        assert {(key.dtype, key.shape) for key in found} == {(mx.uint32, (2,))}
        return [tuple(int(number) for number in np.array(key)) for key in found]

    assert len(set(keys(2, seeds))) == len(seeds) * len(steps) * len(microbatches)
    assert keys(1, [0]) == keys(1, [2**20])
    assert keys(1, [3])[:2] == [(3 * 4096, 0), (3 * 4096 + 1, 0)]
