"""Products of low rank, alone and of several projections together, against the plain formulas."""

import functools
import io
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from tests.adapters.test_layers import INPUTS, OUTPUTS, RANK, SCALE, SCHEMES, make_layer, make_linear, normal
from vlora.adapters.attach import attach_lora
from vlora.adapters.attached import lora_layers
from vlora.adapters.fused import LowRankUpdate, fused_lora_matmul, multiply_low_rank
from vlora.adapters.layers import LoRALinear
from vlora.ops.quantized import DEQUANTIZE_MIN_ROWS


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


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("scales", [(SCALE,), (1.0, 1.0), (SCALE, SCALE, SCALE), (SCALE, 1.0, 0.25)], ids=str)
def test_scales_take_no_operation(scales: tuple[float, ...], with_bias: bool, drops: bool) -> None:
    """Updates of one scale, or of several and other ranks, are the plain formula; matrix products do the scaling.

    So they are where their input is another than that of the frozen layers.
    """
    updates = [
        LowRankUpdate(make_linear(bias=place != 1), scale, normal(INPUTS, place + 2), normal(place + 2, OUTPUTS))
        for place, scale in enumerate(scales)
    ]
    inputs = [normal(2, 5, INPUTS, seed=3 + place) for place in range(1 + drops)]
    factors = [factor for update in updates for factor in (update.lora_a, update.lora_b)]
    cotangents = [normal(2, 5, OUTPUTS, seed=place) for place in range(len(updates))]
    mx.eval(inputs, factors, cotangents, [update.linear.parameters() for update in updates])

    def plain(given: list[LowRankUpdate], x: mx.array, dropped: mx.array | None = None) -> list[mx.array]:
        z = x if dropped is None else dropped
        sums = [x @ u.linear.weight.T + u.scale * (z @ u.lora_a @ u.lora_b) for u in given]
        return [y + u.linear.bias if with_bias and "bias" in u.linear else y for y, u in zip(sums, given, strict=True)]

    def gradients(products: Callable[..., list[mx.array]]) -> list[mx.array]:
        def run(*arrays: mx.array) -> list[mx.array]:
            given, factors = arrays[: len(inputs)], arrays[len(inputs) :]
            pairs = zip(updates, factors[::2], factors[1::2], strict=True)
            updated = [u._replace(lora_a=a, lora_b=b) for u, a, b in pairs]
            return products(updated, given[0], dropped=given[1] if drops else None)

        outputs, found = mx.vjp(run, [*inputs, *factors], cotangents)
        return [*outputs, *found]

    own = gradients(functools.partial(fused_lora_matmul, with_bias=with_bias))
    for place, (found, wanted) in enumerate(zip(own, gradients(plain), strict=True)):
        np.testing.assert_allclose(
            found, wanted, rtol=1e-4, atol=1e-4 * float(mx.abs(wanted).max()), err_msg=str(place)
        )

    with io.StringIO() as graph:
        mx.export_to_dot(graph, *gradients(functools.partial(fused_lora_matmul, with_bias=with_bias)))
        # In the backward pass what is of the rank is multiplied, where scales differ.
        n_apart = sum(scale != 1 for scale in scales) if len(set(scales)) > 1 else 0
        assert graph.getvalue().count('"Multiply"') == n_apart


def test_rows_stay_what_they_are() -> None:
    """Inputs of two dimensions are reshaped neither on the way to the products nor back; others are."""
    layer = make_layer(LoRALinear, make_linear())
    for shape, n_reshaped in (((6, INPUTS), 0), ((2, 3, INPUTS), 4)):
        arrays = [normal(*shape), layer.lora_a, layer.lora_b, normal(*shape[:-1], OUTPUTS)]
        mx.eval(arrays, layer.linear.parameters())

        def run(x: mx.array, *factors: mx.array) -> list[mx.array]:
            return fused_lora_matmul([LowRankUpdate(layer.linear, SCALE, *factors)], x)

        outputs, gradients = mx.vjp(run, arrays[:3], arrays[3:])
        with io.StringIO() as graph:
            mx.export_to_dot(graph, *outputs, *gradients)
            assert graph.getvalue().count('"Reshape"') == n_reshaped


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
