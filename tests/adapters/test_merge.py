"""Merged weights: a layer with them computes what the layer with its adapter does, in whole or in part."""

import mlx.core as mx
import pytest
from mlx import nn
from mlx_vlm.models.switch_layers import SwitchLinear

from vlora.adapters.layers import DoRALinear, LoRALinear, LoRASwitchLinear
from vlora.adapters.merge import Rounding, merged_weight, quantized_parts, unpacked

KEY = mx.random.key(3)


def draw(*shape: int) -> mx.array:
    """Draw numbers."""
    return mx.random.normal(shape, key=mx.random.key(sum(shape)))


@pytest.mark.parametrize("kind", [LoRALinear, DoRALinear])
def test_linear_layers(kind: type[LoRALinear]) -> None:
    """The product is the adapter's, and rows taken apart are those of the whole."""
    layer = kind(nn.Linear(24, 16), 4, 1.5, 0.0, KEY)
    layer.lora_b = draw(4, 16)
    if isinstance(layer, DoRALinear):
        layer.m = layer.m * 1.25
    weight, x = layer.linear.weight, draw(5, 24)
    merged = merged_weight(layer, weight)
    assert mx.allclose(x @ merged.T + layer.linear.bias, layer(x), atol=1e-5)
    rows = (slice(3, 9), slice(0, 24))
    assert mx.array_equal(merged_weight(layer, weight[rows], rows), merged[rows])
    if kind is LoRALinear:
        part = (slice(3, 9), slice(6, 24))
        assert mx.allclose(merged_weight(layer, weight[part], part), merged[part], atol=1e-6)


def test_experts() -> None:
    """Each expert has its own update."""
    layer = LoRASwitchLinear(SwitchLinear(24, 16, 3, bias=False), 4, 0.5, 0.0, KEY)
    layer.lora_b = draw(3, 16, 4)
    merged, x = merged_weight(layer, layer.linear.weight), draw(2, 1, 24)
    chosen = mx.array([2, 0])
    assert mx.allclose(x @ merged[chosen].swapaxes(1, 2), layer(x, chosen), atol=1e-5)
    part = (slice(1, 2), slice(0, 8), slice(8, 24))
    assert mx.allclose(merged_weight(layer, layer.linear.weight[part], part), merged[part], atol=1e-6)


def test_what_quantizing_changes() -> None:
    """The share is that of the weights, the worst layer is named, and nothing is changed where nothing is rounded."""
    scheme = {"group_size": 32, "bits": 8, "mode": "affine"}
    before, trained = draw(16, 64), draw(16, 64) + 0.1
    again = unpacked(quantized_parts(trained, scheme), scheme)
    found = Rounding().add("a", before, trained, again).add("b", before, trained, trained)
    expected = float(mx.linalg.norm(trained - again) / mx.linalg.norm(trained)) / 2**0.5
    assert found.share == pytest.approx(expected, rel=1e-4)
    learned = float(mx.linalg.norm(trained - before)) * 2**0.5
    assert found.share_of_update == pytest.approx(float(mx.linalg.norm(trained - again)) / learned, rel=1e-4)
    assert found.worst is not None
    assert found.worst[0] == "a"
    assert (Rounding().share, Rounding().share_of_update) == (0.0, None)
