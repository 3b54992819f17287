"""Adapters attached to a model: its function at the start, and what has no adapter."""

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from tests.adapters.test_layers import INPUTS, RANK, SCALE, Net, normal
from vlora.adapters.attach import attach_lora
from vlora.adapters.attached import adapter_state_dict
from vlora.errors import ModelError


def test_pissa_starts_at_the_model_and_is_saved_as_a_lora() -> None:
    """Nothing changes at the start, both factors have a gradient, and a LoRA of twice the rank is what was learned."""
    net, x = Net(), normal(4, INPUTS)
    names = ["plain", "packed", "experts"]
    before = net(x)
    net.freeze()
    attach_lora(net, names, rank=RANK, scale=SCALE, init="pissa", seed=3)
    params = dict(tree_flatten(net.trainable_parameters()))
    start = net(x)
    grads = mx.grad(lambda p: (net.update(tree_unflatten(list(p.items()))), net(x).square().sum())[1])(params)
    learned = {name: value - 1e-4 * grads[name] for name, value in params.items()}
    net.update(tree_unflatten(list(learned.items())))
    other = Net()
    other.freeze()
    attach_lora(other, names, rank=2 * RANK, scale=SCALE)
    saved = adapter_state_dict(net, learned)
    other.update(tree_unflatten(list(saved.items())))

    assert mx.allclose(start, before, rtol=1e-4, atol=1e-4)
    assert all(float(mx.abs(value).max()) > 0 for value in grads.values())
    assert float(mx.abs(net(x) - before).max()) > 1e-3
    assert mx.allclose(other(x), net(x), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_made_is_refused() -> None:
    """DoRA has no form for experts; a principal part has no more directions than the layer is wide."""
    with pytest.raises(ModelError, match=r"lora\.method: 'dora' has no form for experts, and experts is"):
        attach_lora(Net(), ["experts"], rank=2, scale=1.0, method="dora")
    with pytest.raises(ModelError, match=r"lora\.rank: found 60 with lora\.init = 'pissa', but plain is 48 x 64"):
        attach_lora(Net(), ["plain"], rank=60, scale=1.0, init="pissa")
