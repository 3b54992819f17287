"""Which part of a divided model gathers when: layers whenever they run, the head once, and embedding in every batch."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from tests.training import make_trainable
from vlora import collate, make_train_step, models, unbind
from vlora.train import chunked_head
from vlora.train.sharding import Shard


def test_what_gathers_how_often(checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of the head's chunks; each layer twice, since it runs again in the backward pass."""
    subject = make_trainable(checkpoint("qwen3_vl"))
    shards = models.divide(subject.backbone, mx.distributed.init())
    counts: Counter[int] = Counter()
    gathered = Shard.gathered

    @contextmanager
    def counted(self: Shard, *given: Any, **named: Any) -> Iterator[None]:
        counts[id(self)] += 1
        with gathered(self, *given, **named):
            yield

    monkeypatch.setattr(Shard, "gathered", counted)
    monkeypatch.setattr(chunked_head, "FEWEST_HEAD_ROWS", 2)
    monkeypatch.setattr(chunked_head, "HEAD_BYTES", 1)
    unbind(subject.backbone)
    step = make_train_step(subject.backbone, subject.optimizer, compiled=False)
    step(subject.state, [collate(subject.examples)], learning_rate=1e-3)

    assert shards.head is not None
    of_head = id(shards.head[1])
    assert [counts[id(shard)] for _, shard in shards.layers] == [2] * len(shards.layers)
    assert counts[of_head] == 1 + (of_head in map(id, shards.embedding))
    assert all(counts[id(shard)] == 1 for shard in shards.embedding if id(shard) != of_head)


def test_bytes_that_other_ranks_keep(checkpoint: Callable[[str], Path]) -> None:
    """Of all parts, a table that is the head counted once; none with one rank, half with two."""
    backbone = make_trainable(checkpoint("qwen3_vl")).backbone
    total = sum(value.nbytes for _, value in tree_flatten(backbone.module.parameters()))
    other = make_trainable(checkpoint("qwen3_vl")).backbone
    two: Any = SimpleNamespace(rank=lambda: 0, size=lambda: 2)

    trained = sum(value.nbytes for _, value in tree_flatten(other.module.trainable_parameters()))

    assert models.frozen_bytes(other) == total - trained
    assert models.divide(backbone, mx.distributed.init()).n_elsewhere <= 0
    n_elsewhere = models.divide(other, two).n_elsewhere
    assert 0.45 * total < n_elsewhere < 0.5 * total
    assert models.frozen_bytes(other) == total - trained - n_elsewhere
