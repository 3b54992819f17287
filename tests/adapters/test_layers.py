"""Adapters against their definitions, computed with whole matrices, and against mlx-vlm's own layers."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten
from mlx_vlm.models.switch_layers import SwitchGLU, SwitchLinear
from mlx_vlm.trainer.peft.dora_layers import DoRALinear as UpstreamDoRA
from mlx_vlm.trainer.peft.lora_layers import LoRALinear as UpstreamLoRA
from mlx_vlm.trainer.peft.lora_layers import LoRASwitchLinear as UpstreamSwitch

from vlora.adapters.attach import attach_lora
from vlora.adapters.attached import lora_layers
from vlora.adapters.layers import DoRALinear, LoRALinear, LoRASwitchLinear
from vlora.ops.quantized import DEQUANTIZE_MIN_ROWS, dequantized_weight
from vlora.train.dropout import dropout_keys

INPUTS, OUTPUTS, RANK, SCALE, EXPERTS = 64, 48, 3, 1.5, 5
SCHEMES = [None, {"bits": 4, "mode": "affine"}, {"bits": 8, "mode": "affine"}, {"bits": 4, "mode": "mxfp4"}]


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


def make_linear(scheme: dict[str, object] | None = None, *, bias: bool = True) -> nn.Module:
    linear = nn.Linear(INPUTS, OUTPUTS, bias=bias)
    linear.weight = normal(OUTPUTS, INPUTS, seed=7) / 8
    if bias:
        linear.bias = normal(OUTPUTS, seed=8)
    return linear if scheme is None else linear.to_quantized(group_size=32, **scheme)


def make_layer(kind: type, linear: nn.Module, *, dropout: float = 0.0) -> Any:
    layer = kind(linear, RANK, SCALE, dropout, mx.random.key(1))
    layer.lora_b = 0.3 * normal(*layer.lora_b.shape, seed=2)
    return layer


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("n_rows", [4, DEQUANTIZE_MIN_ROWS + 1])
@pytest.mark.parametrize("bias", [True, False])
def test_lora_is_its_definition(scheme: dict[str, object] | None, n_rows: int, bias: bool) -> None:
    """Output and gradients are those of the merged matrix, whatever the base is packed in and however many rows."""
    layer, x = make_layer(LoRALinear, make_linear(scheme, bias=bias)), normal(n_rows, INPUTS, seed=3)

    def whole(params: dict[str, mx.array], x: mx.array) -> mx.array:
        y = x @ (dequantized_weight(layer.linear) + SCALE * (params["lora_a"] @ params["lora_b"]).T).T
        return y + layer.linear.bias if bias else y

    same_function(layer, x, whole)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("n_rows", [4, DEQUANTIZE_MIN_ROWS + 1])
@pytest.mark.parametrize("bias", [True, False])
def test_dora_is_its_definition(scheme: dict[str, object] | None, n_rows: int, bias: bool) -> None:
    """Output and gradients are those of the rows turned and stretched; no gradient flows through their norms."""
    layer, x = make_layer(DoRALinear, make_linear(scheme, bias=bias)), normal(n_rows, INPUTS, seed=3)
    layer.m = layer.m * (1 + 0.2 * normal(OUTPUTS, seed=4))

    def whole(params: dict[str, mx.array], x: mx.array) -> mx.array:
        weight = dequantized_weight(layer.linear) + SCALE * (params["lora_a"] @ params["lora_b"]).T
        norms = mx.stop_gradient(mx.linalg.norm(weight, axis=1))
        y = (x @ weight.T) * (params["m"] / norms)
        return y + layer.linear.bias if bias else y

    same_function(layer, x, whole)


def same_function(layer: LoRALinear, x: mx.array, whole: Callable[..., mx.array]) -> None:
    """Compare a layer with its definition: values, and gradients of parameters and inputs."""
    weights = normal(x.shape[0], OUTPUTS, seed=5)

    def own(params: dict[str, mx.array], x: mx.array) -> mx.array:
        layer.update(params)
        return layer(x)

    params = layer.trainable_parameters()
    values, grads = [], []
    for function in (own, whole):
        values.append(function(params, x))
        grad = mx.grad(lambda p, x, f=function: (f(p, x) * weights).sum(), argnums=(0, 1))(params, x)
        grads.append(dict(tree_flatten(grad)))
    layer.update(params)

    assert mx.allclose(values[0], values[1], rtol=1e-4, atol=1e-4)
    assert set(grads[0]) == set(grads[1])
    for name, expected in grads[1].items():
        assert mx.allclose(grads[0][name], expected, rtol=1e-3, atol=1e-4 * float(mx.abs(expected).max())), name


@pytest.mark.parametrize("scheme", SCHEMES[:2], ids=str)
@pytest.mark.parametrize(("kind", "upstream"), [(LoRALinear, UpstreamLoRA), (DoRALinear, UpstreamDoRA)])
def test_mlx_vlm_computes_the_same(kind: type, upstream: Any, scheme: dict[str, object] | None) -> None:
    """mlx-vlm's layer with our arrays gives our output."""
    linear = make_linear(scheme)
    layer, x = make_layer(kind, linear), normal(6, INPUTS, seed=3)
    other = upstream.from_base(linear, r=RANK, dropout=0.0, scale=SCALE)
    other.update(layer.trainable_parameters())

    assert mx.allclose(other(x), layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [None, 4])
def test_experts_have_their_own_updates(bits: int | None) -> None:
    """Each input gets the update of the expert that it is sent to; mlx-vlm's layer computes the same."""
    linear = SwitchLinear(INPUTS, OUTPUTS, EXPERTS, bias=True)
    linear = linear if bits is None else linear.to_quantized(group_size=32, bits=bits)
    layer = make_layer(LoRASwitchLinear, linear)
    x, indices = normal(7, 1, INPUTS, seed=3), mx.array([0, 0, 1, 2, 2, 4, 4])
    upstream = UpstreamSwitch.from_base(linear, r=RANK, dropout=0.0, scale=SCALE)
    upstream.update(layer.trainable_parameters())
    weight = dequantized_weight(linear) + SCALE * layer.lora_b @ layer.lora_a
    expected = mx.stack([row @ weight[expert].T + linear.bias[expert] for row, expert in zip(x, indices)])  # noqa: B905

    assert mx.allclose(layer(x, indices, sorted_indices=True), expected, rtol=1e-4, atol=1e-4)
    assert mx.allclose(layer(x, indices), upstream(x, indices), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_experts_adapt_inside_a_mixture(training: bool) -> None:
    """A mixture with adapters that start at nothing is the mixture without them, in training and in generation."""
    mixture = SwitchGLU(INPUTS, 32, EXPERTS)
    mixture.train(training)
    x, indices = normal(1, 5, INPUTS), mx.random.randint(0, EXPERTS, (1, 5, 2), key=mx.random.key(3))
    before = mixture(x, indices)
    mixture.freeze()
    attach_lora(mixture, ["gate_proj", "up_proj", "down_proj"], rank=RANK, scale=SCALE)

    assert mx.allclose(mixture(x, indices), before, rtol=1e-5, atol=1e-5)
    assert len(list(lora_layers(mixture))) == 3
    assert {name.rpartition(".")[2] for name, _ in tree_flatten(mixture.trainable_parameters())} == {"lora_a", "lora_b"}


class Net(nn.Module):
    """One layer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = make_linear()
        self.packed = make_linear(SCHEMES[1])
        self.experts = SwitchLinear(INPUTS, OUTPUTS, EXPERTS, bias=False)
        self.experts.weight = normal(EXPERTS, OUTPUTS, INPUTS, seed=9) / 8

    def __call__(self, x: mx.array) -> mx.array:
        """Apply all of them to f[4, INPUTS]."""
        indices = mx.array([0, 1, 3, 4])
        return self.plain(x) + self.packed(x) + self.experts(x[:, None], indices).squeeze(1)


def test_pissa_starts_at_the_model_with_factors_of_another_type() -> None:
    """A step rounds the factors to the type of the weights, whatever the input's: what they start from likewise."""
    linear = make_linear(bias=False)
    linear.weight, x = linear.weight.astype(mx.bfloat16), normal(4, INPUTS)
    layer, before = make_layer(LoRALinear, linear), linear(x)
    layer.set_initial_factors(layer.lora_a, layer.lora_b)
    layer.lora_a, layer.lora_b = layer.lora_a.astype(mx.bfloat16), layer.lora_b.astype(mx.bfloat16)

    np.testing.assert_allclose(layer(x), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [LoRALinear, DoRALinear])
def test_bfloat16_is_not_promoted(kind: type) -> None:
    """float32 factors leave the activations of a bfloat16 model in bfloat16."""
    linear = make_linear()
    linear.set_dtype(mx.bfloat16)

    assert make_layer(kind, linear)(normal(4, INPUTS).astype(mx.bfloat16)).dtype == mx.bfloat16


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("n_rows", [4, DEQUANTIZE_MIN_ROWS + 1])
def test_lora_with_dropout_is_its_definition(scheme: dict[str, object] | None, n_rows: int) -> None:
    """Output and gradients are those of the frozen layer with all of the input and the update with what was kept."""
    layer, x = make_layer(LoRALinear, make_linear(scheme), dropout=0.3), normal(n_rows, INPUTS, seed=3)
    layer._dropout_key = mx.random.key(6)

    def whole(params: dict[str, mx.array], x: mx.array) -> mx.array:
        y = x @ dequantized_weight(layer.linear).T + layer.linear.bias
        return y + SCALE * (layer.dropped(x) @ params["lora_a"]) @ params["lora_b"]

    same_function(layer, x, whole)


def test_dropout_drops_inputs_of_the_update_alone() -> None:
    """With a key the update is another one, as large on average; without one nothing is dropped."""
    net = Net()
    net.freeze()
    attach_lora(net, ["plain"], rank=RANK, scale=SCALE, dropout=0.5)
    net.plain.lora_b = normal(*net.plain.lora_b.shape, seed=2)
    x = normal(1, INPUTS)
    whole, base = net.plain(x), net.plain.linear(x)
    drawn = []
    for key in mx.random.split(mx.random.key(0), 400):
        with dropout_keys(net, key):
            drawn.append(net.plain(x))
    mean = mx.stack(drawn).mean(axis=0)

    assert mx.array_equal(net.plain(x), whole)
    assert float(mx.abs(drawn[0] - drawn[1]).max()) > 0.1
    assert float(mx.linalg.norm(mean - whole)) < 0.2 * float(mx.linalg.norm(whole - base))
