"""The adapters of a model, found among its layers."""

from typing import Literal

import mlx.core as mx
from mlx import nn

from tests.adapters.test_layers import RANK, SCALE, Net
from vlora.adapters.attach import attach_lora
from vlora.adapters.attached import compute_dtypes, lora_layers, summarize, switched_off


def adapted(method: Literal["lora", "dora"] = "lora") -> Net:
    """Attach an adapter to two of the three layers."""
    net = Net()
    net.freeze()
    net.plain.weight = net.plain.weight.astype(mx.bfloat16)
    attach_lora(net, ["plain", "packed"], rank=RANK, scale=SCALE, method=method)
    return net


def test_adapters_come_in_the_order_of_the_model() -> None:
    """Those that there are, and nothing within them."""
    assert [name for name, _ in lora_layers(adapted())] == ["plain", "packed"]
    assert not list(lora_layers(Net()))


def test_factors_are_used_in_the_type_of_their_layer() -> None:
    """Which is that of the scales where the weights are packed; DoRA's norms are of the masters."""
    types = compute_dtypes(adapted())

    assert types["plain.lora_a"] == types["plain.lora_b"] == mx.bfloat16
    assert types["packed.lora_a"] == mx.float32
    assert {*types} == {f"{layer}.lora_{factor}" for layer in ("plain", "packed") for factor in "ab"}
    assert set(compute_dtypes(adapted("dora")).values()) == {mx.float32}


def test_other_parameters_keep_their_type() -> None:
    """Nothing is cast that is trained whole."""
    linear = nn.Linear(4, 4)
    linear.bias = linear.bias.astype(mx.bfloat16)

    assert compute_dtypes(linear) == {"weight": mx.float32, "bias": mx.bfloat16}


def test_names_are_summarized_for_people() -> None:
    """Names that differ in their numbers only are one."""
    names = ["a.0.q", "a.1.q", "a.0.b.3.k", "a.1.b.10.k", "head"]

    assert summarize(names) == ["a.*.q (2)", "a.*.b.*.k (2)", "head"]


def test_a_model_that_is_switched_off_is_its_base() -> None:
    """Whatever its adapters have learned, and afterwards they are on again."""
    x = mx.random.normal((2, 64), key=mx.random.key(0))
    for method in ("lora", "dora"):
        net = adapted(method)
        layer = net.packed
        layer.lora_b = layer.lora_b + 0.5
        on, base = layer(x), layer.linear(x)

        with switched_off(net):
            off = layer(x)

        assert mx.allclose(off, base, atol=1e-5)
        assert not mx.allclose(on, base, atol=1e-2)
        assert mx.array_equal(layer(x), on)
