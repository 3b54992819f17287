"""Products with frozen layers, and dequantization of quantized ones. Pure."""

import math
from typing import cast

import mlx.core as mx
import mlx.nn as nn

from .cuda_kernels import WORD_ALIGNED, on_cuda, unpack_words
from .custom_vjp import custom_vjp

MOST_UNPACKED = 2**26
"""Most weights that are unpacked at once: 134 MB in bfloat16. Only heads usually have more."""

ALIGNED = 256
"""Multiple of a part's outputs; on an H100 products with matrices of odd sizes are ten times as slow."""

DEQUANTIZE_MIN_ROWS = 128
"""Rows from which unpacking quantized weights pays; at thousands a 4-bit 2B model runs 2.2x as fast on an H200."""


def frozen_linear(linear: nn.Module, x: mx.array, *, with_bias: bool = True) -> mx.array:
    """Apply a frozen linear layer; for a quantized one the faster method for the number of rows is chosen.

    `quantized_matmul` reads packed weights for every few rows: right when generating, slow for the thousands of rows
    of a training step, where the weights are unpacked once and multiplied as a matrix. The backward pass unpacks them
    again, so that the unpacked matrix is never kept; a vocabulary's is unpacked in parts.

    Args:
        linear: `nn.Linear` or `nn.QuantizedLinear`; gets no gradient.
        x: f[..., inputs].
        with_bias: Whether the layer's bias, if it has one, is added.

    Returns:
        f[..., outputs] in the type of `x`.
    """
    is_quantized = isinstance(linear, nn.QuantizedLinear)
    if not is_quantized or not is_unpacked(linear, x):
        if with_bias or "bias" not in linear:
            plain: mx.array = linear(x)
            return plain
        if not is_quantized:
            return mx.matmul(x, linear.weight.T)
    y = multiply_unpacked(linear, x)
    return mx.add(y, linear.bias) if with_bias and "bias" in linear else y


def add_product(onto: mx.array, linear: nn.Module, x: mx.array, *, times: float = 1.0) -> mx.array:
    """Add a frozen layer's product, without its bias; with plain weights in the same pass that computes it.

    Args:
        onto: f[..., outputs].
        linear: `nn.Linear` or `nn.QuantizedLinear`.
        x: f[..., inputs].
        times: What `onto` is multiplied with.

    Returns:
        f[..., outputs].
    """
    if not isinstance(linear, nn.QuantizedLinear):
        return mx.addmm(onto, x, linear.weight.T, beta=times)
    if is_unpacked(linear, x) and math.prod(linear_shape(linear)) <= MOST_UNPACKED:
        return mx.addmm(onto, x, dequantized_weight(linear, after=x, dtype=x.dtype).T, beta=times)
    return (onto if times == 1 else times * onto) + frozen_linear(linear, x, with_bias=False)


def is_unpacked(linear: nn.Module, x: mx.array) -> bool:
    """Whether a layer is quantized, and f[..., inputs] so many rows that unpacking its weights pays."""
    return "scales" in linear and x.size >= DEQUANTIZE_MIN_ROWS * x.shape[-1]


def multiply_unpacked(linear: nn.Module, x: mx.array) -> mx.array:
    """Multiply with the unpacked weights of a quantized layer, or of an embedding that is the head; without its bias.

    Args:
        linear: `nn.QuantizedLinear` or `nn.QuantizedEmbedding`; gets no gradient.
        x: f[..., inputs].

    Returns:
        f[..., outputs] in the type of `x`.
    """
    n_outputs, n_inputs = linear.weight.shape[0], linear.weight.shape[1] * 32 // linear.bits
    step = max(1, MOST_UNPACKED // n_inputs // ALIGNED) * ALIGNED
    spans = [slice(start, min(start + step, n_outputs)) for start in range(0, n_outputs, step)]

    @custom_vjp(keeps="inputs")
    def product(x: mx.array) -> mx.array:
        parts = [x]
        for span in spans:
            # Each part waits for the product before it, so that one unpacked part exists at a time.
            parts.append(x @ dequantized_weight(linear, span, after=parts[-1], dtype=x.dtype).T)
        return parts[1] if len(spans) == 1 else mx.concatenate(parts[1:], axis=-1)

    @product.vjp
    def product_vjp(x: mx.array, cotangent: mx.array) -> mx.array:
        gradient = cotangent[..., spans[0]] @ dequantized_weight(linear, spans[0], after=cotangent, dtype=x.dtype)
        for span in spans[1:]:
            weight = dequantized_weight(linear, span, after=gradient, dtype=x.dtype)
            gradient = mx.addmm(gradient, cotangent[..., span], weight)
        return gradient

    return cast("mx.array", product(x))


def dequantized_weight(
    linear: nn.Module, outputs: slice = slice(None), *, after: mx.array | None = None, dtype: mx.Dtype | None = None
) -> mx.array:
    """Give a layer's weights, f[..., outputs, inputs]; quantized ones are unpacked.

    Args:
        linear: The layer.
        outputs: Which of its outputs (of a stack of experts: which experts).
        after: Array that has to be computed before they are unpacked. Without it MLX may unpack all of a model's
            weights at the start of a step, and keep those of the forward pass for the backward pass.
        dtype: In which they are given, and computed: scales may be of a type that rounds more.
    """
    weight: mx.array = linear.weight[outputs]
    if "scales" not in linear:
        return weight if dtype is None else weight.astype(dtype)
    if after is not None:
        (weight,) = mx.depends([weight], [after])
    scales = linear.scales[outputs]
    biases = None if linear.get("biases") is None else linear.biases[outputs]
    if dtype is not None and biases is not None:
        scales, biases = scales.astype(dtype), biases.astype(dtype)
    if on_cuda() and linear.mode == "affine" and linear.bits in WORD_ALIGNED:
        return unpack_words(weight, scales, cast("mx.array", biases), linear.group_size, linear.bits)
    unpacked = mx.dequantize(weight, scales, biases, group_size=linear.group_size, bits=linear.bits, mode=linear.mode)
    return unpacked if dtype is None else unpacked.astype(dtype)


def linear_shape(linear: nn.Module) -> tuple[int, int]:
    """Return (outputs, inputs) of a plain or quantized linear layer."""
    n_outputs, n_inputs = linear.weight.shape
    if isinstance(linear, nn.QuantizedLinear):
        n_inputs = n_inputs * 32 // linear.bits
    return n_outputs, n_inputs
