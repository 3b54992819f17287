"""Products with weights that are unpacked for them: in parts, and one after the other."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx import nn

from tests.adapters.test_layers import INPUTS, normal
from vlora.ops import quantized
from vlora.ops.quantized import DEQUANTIZE_MIN_ROWS, dequantized_weight, frozen_linear


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
