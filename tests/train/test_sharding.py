"""Frozen weights divided among ranks: parts, placeholders, and modules that gather what they need."""

import itertools
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from tests.train.divided_on_ranks import Stack, gradients, make_stack
from vlora.system.launching import launch
from vlora.system.rank_environment import make_environments
from vlora.train.sharding import Place, Shard, _divide, frozen_places, gathering

SHAPES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=5)


def group(rank: int, size: int) -> Any:
    """A group that is asked for no more than its numbers."""
    return SimpleNamespace(rank=lambda: rank, size=lambda: size)


@given(SHAPES, st.integers(1, 5), st.sampled_from([mx.float32, mx.bfloat16, mx.uint32]))
def test_parts_make_the_whole(shapes: list[tuple[int, int]], n_ranks: int, dtype: mx.Dtype) -> None:
    """Whatever the number of ranks, all parts are as long, and joined they have every array."""
    arrays = [(mx.random.uniform(shape=shape) * 9).astype(dtype) for shape in shapes]
    owner = nn.Module()
    places = []
    for number, value in enumerate(arrays):
        owner[f"a{number}"] = value
        places.append(Place(owner, f"a{number}"))
    messages = [_divide(places, group(rank, n_ranks)) for rank in range(n_ranks)]
    whole = mx.concatenate([message.own for message in messages])

    assert len({message.own.shape for message in messages}) == 1
    for value, start in zip(arrays, messages[0].starts, strict=True):
        assert mx.array_equal(whole[start : start + value.size].reshape(value.shape), value)


def test_a_rank_keeps_its_part_only() -> None:
    """The whole is freed, and what is there instead is no number and takes no memory."""
    layer = nn.Linear(512, 1024)
    layer.freeze()
    mx.eval(layer.parameters())
    mx.clear_cache()
    before = mx.get_active_memory()
    shard = Shard(frozen_places(layer), group(1, 4))

    assert shard.nbytes == 512 * 1024 * 4 / 4
    assert shard.n_elsewhere == 3 * shard.nbytes
    assert before - mx.get_active_memory() == pytest.approx(shard.n_elsewhere, abs=2**14)
    assert math.isnan(float(layer.weight[3, 4]))
    assert layer.weight.shape == (1024, 512)
    assert not math.isnan(float(layer.bias[3]))


def test_weights_are_there_only_while_they_are_gathered() -> None:
    """Also if what runs with them fails."""
    stack = make_stack("lora")
    expected = mx.array(stack.layers[0].up.linear.weight)
    shard = Shard(frozen_places(stack.layers[0]), mx.distributed.init())
    with shard.gathered():
        assert mx.array_equal(stack.layers[0].up.linear.weight, expected)
    with pytest.raises(IndexError), shard.gathered():
        stack.layers.pop(9)

    assert math.isnan(float(stack.layers[0].up.linear.weight[0, 0]))


def test_what_is_trained_stays_whole() -> None:
    """As do arrays of one dimension."""
    stack = make_stack("dora")
    names = {place.key for place in frozen_places(stack.layers[0])}
    stack.layers[0].up.linear.unfreeze()
    left = frozen_places(stack.layers[0])

    assert names == {"weight"}
    assert len(left) == 1


@pytest.mark.parametrize("kind", ["lora", "dora", "packed"])
def test_gathering_layers_have_the_same_gradients(kind: str) -> None:
    """Those of adapters read the weights, too, which are there again."""
    expected = gradients(make_stack(kind))
    stack = make_stack(kind)
    shards = divide(stack)

    assert_same(gradients(stack, shards), expected)
    assert type(stack.layers[0]).__name__ == "Block"
    assert not math.isfinite(float(stack(mx.ones((1, 1, 64))).sum()))


def test_several_results_and_keywords() -> None:
    """A layer may return several things, some of them no arrays, and take its input by name."""

    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def __call__(self, first: int, *, x: mx.array) -> tuple[Any, ...]:
            y = self.inner(x)
            return first, {"y": y, "none": None}, [y * 2]

    layer = Split()
    layer.freeze()
    expected = layer(3, x=mx.ones((2, 8)))
    shard = Shard(frozen_places(layer), mx.distributed.init())
    with gathering([(layer, shard)]):
        found = layer(3, x=mx.ones((2, 8)))

    assert (found[0], found[1]["none"]) == (3, None)
    assert mx.array_equal(found[1]["y"], expected[1]["y"])
    assert mx.array_equal(found[2][0], expected[2][0])


def test_two_ranks(tmp_path: Path) -> None:
    """Each has half, and both the gradients of one that has all, to the last bit."""
    said: list[str] = []
    command = [sys.executable, "-m", "tests.train.divided_on_ranks", str(tmp_path)]
    assert launch(command, make_environments("cpu", 2, tmp_path), said.append) == 0, said
    found = [json.loads((tmp_path / f"found-{rank}.json").read_text()) for rank in range(2)]

    for rank, kind in itertools.product(range(2), ("lora", "dora", "packed")):
        assert found[rank][kind]["is_equal"], (rank, kind)
        assert found[rank][kind]["share"] == pytest.approx(0.5, abs=0.01)


def divide(stack: Stack) -> list[tuple[nn.Module, Shard]]:
    """Divide a model's layers among one rank."""
    return [(layer, Shard(frozen_places(layer), mx.distributed.init())) for layer in stack.layers]


def assert_same(found: Any, expected: Any) -> None:
    """Compare trees of arrays to the last bit."""
    for (name, one), (_, other) in zip(tree_flatten(found), tree_flatten(expected), strict=True):
        assert mx.array_equal(one, other), name
