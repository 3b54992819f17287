"""The state of a run, and the model with and without its parameters."""

import math
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten, tree_map

from tests.training import make_trainable
from vlora import TrainState, bind, collate, make_eval_step, make_train_step, unbind
from vlora.train.state import all_finite

CheckpointFactory = Callable[[str], Path]


@pytest.mark.parametrize(
    "keys", [{}, {"model__full_finetune": True, "model__train_vision": True}], ids=["lora", "full"]
)
def test_an_unbound_model_trains_the_same(keys: dict[str, bool], checkpoint: CheckpointFactory) -> None:
    """Steps and validation take the state's parameters; the model's own take no memory until they are bound."""
    trainable = make_trainable(checkpoint("qwen3_vl"), **keys)
    batch = collate(trainable.examples)

    def train() -> list[mx.array]:
        step = make_train_step(trainable.backbone, trainable.optimizer, max_grad_norm=1.0)
        state, output = step(trainable.state, batch, 1e-3)
        return [*state.params.values(), *make_eval_step(trainable.backbone)(state, batch), output.nll_sum]

    expected = train()
    mx.eval(expected)
    bind(trainable.backbone, trainable.state._replace(params=tree_map(lambda value: value + 0, trainable.state.params)))
    mx.eval(trainable.backbone.module.parameters())
    before = mx.get_active_memory()
    unbind(trainable.backbone)
    held = trainable.backbone.module.trainable_parameters()
    mx.eval(held)

    assert before - mx.get_active_memory() > 0.9 * sum(value.nbytes for value in trainable.state.params.values())
    assert not any(value.any() for _, value in tree_flatten(held))
    assert all(mx.array_equal(one, other) for one, other in zip(train(), expected, strict=True))
    bind(trainable.backbone, trainable.state)
    bound_now = dict(tree_flatten(trainable.backbone.module.trainable_parameters()))
    assert all(mx.array_equal(bound_now[name], value) for name, value in trainable.state.params.items())


def test_overflowed_weights_are_found() -> None:
    """One infinite weight is enough."""
    params = {"a": mx.ones((3,)), "b": mx.array([1.0, math.inf])}

    assert not all_finite(TrainState(params, {}, mx.array(0)))
    assert all_finite(TrainState({"a": mx.ones((3,))}, {}, mx.array(0)))
