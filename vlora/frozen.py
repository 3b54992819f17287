"""Frozen layers: multiplied, unpacked, quantized. Pure."""

from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .errors import ModelError
from .targets import Layout, is_router

UNPACK_FROM_ROWS = 128
"""Rows from which unpacking quantized weights pays; at thousands a 4-bit 2B model runs 2.2x as fast on an H200."""


def multiply_frozen(linear: nn.Module, x: mx.array, *, with_bias: bool = True) -> mx.array:
    """Apply a frozen linear layer; a quantized one in the way that is faster for the number of rows.

    `quantized_matmul` reads packed weights for every few rows: right when generating, slow for the thousands of rows
    of a training step, where the weights are unpacked once and multiplied as a matrix. The backward pass unpacks them
    again, so that the unpacked matrix is never kept.

    Args:
        linear: `nn.Linear` or `nn.QuantizedLinear`; gets no gradient.
        x: f[..., inputs].
        with_bias: Whether the layer's bias, if it has one, is added.

    Returns:
        f[..., outputs] in the type of `x`.
    """
    is_quantized = isinstance(linear, nn.QuantizedLinear)
    if not is_quantized or x.size < UNPACK_FROM_ROWS * x.shape[-1]:
        if with_bias or "bias" not in linear:
            plain: mx.array = linear(x)
            return plain
        if not is_quantized:
            return mx.matmul(x, linear.weight.T)

    @mx.custom_function
    def product(x: mx.array) -> mx.array:
        return x @ unpacked_weight(linear, after=x).astype(x.dtype).T

    @product.vjp
    def product_vjp(x: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
        return cotangent @ unpacked_weight(linear, after=cotangent).astype(x.dtype)

    y = cast("mx.array", product(x))
    return mx.add(y, linear.bias) if with_bias and "bias" in linear else y


def unpacked_weight(linear: nn.Module, *, after: mx.array | None = None) -> mx.array:
    """Give a layer's weights, f[..., outputs, inputs]; quantized ones are unpacked.

    Args:
        linear: The layer.
        after: What has to be computed before they are unpacked. Otherwise nothing keeps MLX from unpacking all of a
            model's weights at the start of a step, and from taking what the forward pass unpacked for the backward.
    """
    weight: mx.array = linear.weight
    if "scales" not in linear:
        return weight
    if after is not None:
        (weight,) = mx.depends([weight], [after])
    return mx.dequantize(
        weight,
        linear.scales,
        linear.get("biases"),
        group_size=linear.group_size,
        bits=linear.bits,
        mode=linear.mode,
    )


def linear_shape(linear: nn.Module) -> tuple[int, int]:
    """Return (outputs, inputs) of a plain or quantized linear layer."""
    n_outputs, n_inputs = linear.weight.shape
    if isinstance(linear, nn.QuantizedLinear):
        n_inputs = n_inputs * 32 // linear.bits
    return n_outputs, n_inputs


def quantize_language(model: nn.Module, layout: Layout, bits: int, group_size: int) -> dict[str, Any]:
    """Quantize the floating-point linear layers and embeddings of the language model, in place.

    Layers of experts stay as they are: mlx-vlm cannot quantize them again when it loads an adapter. For a mixture of
    experts, start from a checkpoint that is quantized.

    Returns:
        Name to group size, bits and mode of each, as an adapter's configuration records it, so that the same
        base can be rebuilt from the floating-point checkpoint.

    Raises:
        ModelError: No layer can be quantized.
    """
    scheme = {"group_size": group_size, "bits": bits, "mode": "affine"}
    chosen = {
        name: scheme
        for name, module in model.named_modules()
        if layout.is_language(name)
        and isinstance(module, (nn.Linear, nn.Embedding))
        and module.weight.shape[-1] % group_size == 0
        and not is_router(name)
        and name.rpartition(".")[2] not in layout.untouchable
    }
    if not chosen:
        msg = (
            f"model.quantize_bits: no layer of the language model has a width divisible by the group size "
            f"{group_size}; set model.quantize_group_size to 32, or leave quantize_bits out"
        )
        raise ModelError(msg)
    nn.quantize(model, class_predicate=lambda name, _: chosen.get(name, False))
    return chosen


def count_parameters(module: nn.Module) -> int:
    """Count a model's parameters; those packed into quantized layers by what they stand for."""
    n_params = sum(value.size for _, value in tree_flatten(module.parameters()))
    for _, layer in module.named_modules():
        if isinstance(layer, (nn.QuantizedLinear, nn.QuantizedEmbedding)):
            # A packed word holds 32 / bits weights; the scales and biases beside it are not the model's.
            packed = sum(value.size for name, value in layer.items() if name in ("weight", "scales", "biases"))
            n_params += layer.weight.size * 32 // layer.bits - packed
    return int(n_params)
