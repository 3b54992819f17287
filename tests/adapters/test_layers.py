"""Adapters against their definitions, computed with whole matrices, and against mlx-vlm's own layers."""

import functools
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx import nn
from mlx.utils import tree_flatten, tree_unflatten
from mlx_vlm.models.switch_layers import SwitchGLU, SwitchLinear
from mlx_vlm.trainer.peft.dora_layers import DoRALinear as UpstreamDoRA
from mlx_vlm.trainer.peft.lora_layers import LoRALinear as UpstreamLoRA
from mlx_vlm.trainer.peft.lora_layers import LoRASwitchLinear as UpstreamSwitch

from vlora.adapters.layers import (
    DoRALinear,
    LoRALinear,
    LoRASwitchLinear,
    adapter_state_dict,
    attach_lora,
    lora_layers,
    multiply_low_rank,
    pissa_factors,
)
from vlora.errors import ModelError
from vlora.ops import quantized
from vlora.ops.quantized import DEQUANTIZE_MIN_ROWS, dequantized_weight, frozen_linear
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


def make_layer(kind: type, linear: nn.Module, *, dropout: float = 0.0) -> LoRALinear:
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


def same_function(layer: LoRALinear, x: mx.array, whole: object) -> None:
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
def test_mlx_vlm_computes_the_same(kind: type, upstream: type, scheme: dict[str, object] | None) -> None:
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
    expected = mx.stack([row @ weight[expert].T + linear.bias[expert] for row, expert in zip(x, indices.tolist())])  # noqa: B905

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


@given(seed=st.integers(0, 100), rank=st.integers(1, 8))
def test_principal_factors_are_the_best_of_their_rank(seed: int, rank: int) -> None:
    """Their product is the truncated singular value decomposition."""
    weight = np.random.default_rng(seed).normal(size=(12, 20)).astype(np.float32)
    left, values, right = np.linalg.svd(weight)

    a, b = pissa_factors(mx.array(weight), rank, SCALE, mx.random.key(0))

    best = left[:, :rank] * values[:rank] @ right[:rank]
    assert np.allclose(SCALE * np.array(a @ b).T, best, atol=1e-4)


def test_principal_factors_of_large_weights() -> None:
    """Subspace iteration comes within a hair of the best error, on weights with a slowly falling spectrum."""
    generator = np.random.default_rng(0)
    left, _ = np.linalg.qr(generator.normal(size=(300, 200)))
    right, _ = np.linalg.qr(generator.normal(size=(200, 200)))
    values = 1 / np.sqrt(1 + np.arange(200))
    weight = (left * values @ right.T).astype(np.float32)

    a, b = pissa_factors(mx.array(weight), 8, SCALE, mx.random.key(0))

    error = np.linalg.norm(weight - SCALE * np.array(a @ b).T)
    assert error < 1.001 * np.linalg.norm(values[8:])


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


def test_what_cannot_be_made_is_refused() -> None:
    """DoRA has no form for experts; a principal part has no more directions than the layer is wide."""
    with pytest.raises(ModelError, match=r"lora\.method: 'dora' has no form for experts, and experts is"):
        attach_lora(Net(), ["experts"], rank=2, scale=1.0, method="dora")
    with pytest.raises(ModelError, match=r"lora\.rank: found 60 with lora\.init = 'pissa', but plain is 48 x 64"):
        attach_lora(Net(), ["plain"], rank=60, scale=1.0, init="pissa")


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "eager"])
def test_unpacked_weights_are_not_gathered(compiled: bool) -> None:
    """A deep stack of quantized layers has few unpacked matrices at a time: each is unpacked where it is used."""
    width, depth = 512, 24
    layers = [nn.QuantizedLinear(width, width, bias=False) for _ in range(depth)]
    x = mx.random.normal((DEQUANTIZE_MIN_ROWS, width), key=mx.random.key(0))
    mx.eval([layer.parameters() for layer in layers], x)

    def total(x: mx.array) -> mx.array:
        for layer in layers:
            x = x + frozen_linear(layer, x)
        return mx.square(x).sum()

    gradient = mx.compile(mx.grad(total)) if compiled else mx.grad(total)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(gradient(x))

    # In flight at a time: as many as MLX queues ahead.
    assert mx.get_peak_memory() - before < 16 * layers[0].scales.size * 64 * 4


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_the_low_rank_product_has_its_own_gradient(dtype: mx.Dtype) -> None:
    """It is that of the two products, in value, gradients and types, compiled or not, for inputs of any dimensions."""
    keys = mx.random.split(mx.random.key(0), 3)
    x, a, b = (
        mx.random.normal(shape, key=key).astype(dtype)
        for shape, key in zip([(2, 3, 8), (8, 2), (2, 5)], keys, strict=True)
    )

    def total(product: Callable[..., mx.array], *factors: mx.array) -> mx.array:
        return mx.sin(product(*factors).astype(mx.float32)).sum()

    plain = functools.partial(total, lambda x, a, b: (x @ a) @ b)
    expected = mx.value_and_grad(plain, argnums=(0, 1, 2))(x, a, b)
    for wrap in (lambda function: function, mx.compile):
        own = functools.partial(total, multiply_low_rank)
        value, gradients = wrap(mx.value_and_grad(own, argnums=(0, 1, 2)))(x, a, b)

        assert float(value) == pytest.approx(float(expected[0]), rel=1e-6)
        for found, wanted in zip(gradients, expected[1], strict=True):
            assert found.dtype == dtype
            assert found.shape == wanted.shape
            assert mx.allclose(
                found.astype(mx.float32),
                wanted.astype(mx.float32),
                rtol=1e-2,
                atol=1e-5 if dtype == mx.float32 else 5e-2,
            )


class Attention(nn.Module):
    """Three projections of one input, or keys and values of another."""

    def __init__(self, scheme: dict[str, object] | None) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (make_linear(scheme, bias=bias) for bias in (True, False, True))

    def __call__(self, x: mx.array, other: mx.array) -> mx.array:
        """Mix them."""
        return self.q_proj(x) + 2 * self.k_proj(other) + 3 * self.v_proj(other)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("n_rows", [4, DEQUANTIZE_MIN_ROWS + 1])
@pytest.mark.parametrize("crossed", [False, True])
def test_layers_of_one_input_compute_together(scheme: dict[str, object] | None, n_rows: int, crossed: bool) -> None:
    """Outputs and gradients are those of each alone; a module that gives them other inputs is left alone."""
    model = nn.Module()
    model.self_attn = Attention(scheme)
    attach_lora(model, [f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj")], rank=RANK, scale=SCALE)
    layers = [layer for _, layer in lora_layers(model)]
    for place, layer in enumerate(layers):
        layer.lora_b = 0.3 * normal(*layer.lora_b.shape, seed=place)
    x = normal(n_rows, INPUTS, seed=3)
    params = model.trainable_parameters()

    def run(params: dict[str, object], x: mx.array) -> mx.array:
        model.update(params)
        return (model.self_attn(x, 2 * x if crossed else x) ** 2).sum()

    shared = mx.value_and_grad(run, argnums=(0, 1))(params, x)
    assert all((layer._shared is None) is crossed for layer in layers)
    for layer in layers:
        layer._shared = None
    alone = mx.value_and_grad(run, argnums=(0, 1))(params, x)

    for (name, found), (_, expected) in zip(tree_flatten(shared), tree_flatten(alone), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-3 * float(mx.abs(expected).max()), err_msg=name)


@pytest.mark.parametrize("types", [(mx.bfloat16, mx.float32), (mx.float32, mx.bfloat16)], ids=str)
def test_gradients_have_the_type_of_what_they_are_of(types: tuple[mx.Dtype, mx.Dtype]) -> None:
    """Where the frozen layer is of another type than its input; the values are those of the plain formula."""
    layer = make_layer(LoRALinear, make_linear())
    layer.linear.set_dtype(types[1])
    x = normal(5, INPUTS, seed=3).astype(types[0])
    names = ("lora_a", "lora_b")

    def run(x: mx.array, *factors: mx.array) -> mx.array:
        for name, factor in zip(names, factors, strict=True):
            layer[name] = factor
        return layer(x).astype(mx.float32).sum()

    def plain(x: mx.array, a: mx.array, b: mx.array) -> mx.array:
        update = SCALE * ((x @ a.astype(x.dtype)) @ b.astype(x.dtype))
        return (layer.linear(x) + update).astype(mx.float32).sum()

    given = [x, *(mx.array(layer[name]) for name in names)]
    found = mx.grad(run, argnums=(0, 1, 2))(*given)
    expected = mx.grad(plain, argnums=(0, 1, 2))(*given)
    for value, wanted, argument in zip(found, expected, given, strict=True):
        assert value.dtype == argument.dtype
        assert mx.abs(value - wanted).max() < 0.03 * mx.abs(wanted).max()


@given(n_outputs=st.integers(1, 40))
def test_a_vocabulary_is_unpacked_in_parts(n_outputs: int) -> None:
    """The parts together are the whole, forward and backward."""
    linear = nn.Linear(INPUTS, 8 * n_outputs, bias=False).to_quantized(group_size=32, bits=4)
    x, towards = normal(6, INPUTS, seed=1), normal(6, 8 * n_outputs, seed=2)
    (whole,), (expected,) = mx.vjp(lambda x: x @ dequantized_weight(linear).T, [x], [towards])
    held = quantized.MOST_UNPACKED, quantized.ALIGNED
    quantized.MOST_UNPACKED, quantized.ALIGNED = 16 * INPUTS, 8
    try:
        (found,), (gradient,) = mx.vjp(lambda x: quantized.multiply_unpacked(linear, x), [x], [towards])
    finally:
        quantized.MOST_UNPACKED, quantized.ALIGNED = held

    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4)
