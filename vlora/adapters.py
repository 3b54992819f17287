"""Low-rank adapters: which layers get one, and the layer itself. Knows no disk and no model family."""

import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from .errors import ModelError

ROUTERS = ("gate", "router", "shared_expert_gate")
"""Parts of the names of layers that choose experts. An adapter there moves tokens between experts;
gate projections of MLPs have other names (gate_proj)."""

HEADS = ("lm_head", "head", "output", "ff_out")
"""Last parts of the names of output heads, which stand outside the layer stack."""


UNPACK_FROM_ROWS = 128
"""Rows from which unpacking quantized weights pays; at thousands a 4-bit 2B model runs 2.2x as fast on an H200."""


class LoRALinear(nn.Module):  # type: ignore[misc]
    """A frozen linear layer plus a trained update of low rank: `linear(x) + scale * dropout(x) A B`.

    A and B are float32 masters and are cast to the input's type where they are used: float32 factors would
    promote every later activation of a bfloat16 model. Names and shapes are those of mlx-vlm's own layer, so
    that it loads what is saved here.

    Attributes:
        linear: The frozen layer, `nn.Linear` or `nn.QuantizedLinear`.
        lora_a: f32[inputs, R].
        lora_b: f32[R, outputs], zero at the start.
    """

    def __init__(self, linear: nn.Module, rank: int, scale: float, dropout: float, key: mx.array) -> None:
        """Wrap a layer.

        Args:
            linear: The layer; it is frozen.
            rank: R.
            scale: alpha / rank.
            dropout: Probability that an input of the update is dropped, in [0, 1).
            key: Random key for A, drawn as PEFT draws it: uniform in +-1/sqrt(inputs).
        """
        super().__init__()
        n_outputs, n_inputs = linear_shape(linear)
        bound = 1 / math.sqrt(n_inputs)
        linear.freeze()
        self.linear = linear
        self.scale = scale
        self.dropout = dropout
        self.lora_a = mx.random.uniform(-bound, bound, (n_inputs, rank), key=key)
        self.lora_b = mx.zeros((rank, n_outputs))
        # Set for the time of one training trace by `dropout_keys`; without it nothing is dropped.
        self._dropout_key: mx.array | None = None

    def __call__(self, x: mx.array) -> mx.array:
        """Apply layer and update to f[..., inputs]; the result has the layer's own type."""
        y = multiply_frozen(self.linear, x)
        inner = x
        if self.dropout and self._dropout_key is not None:
            kept = mx.random.bernoulli(1 - self.dropout, x.shape, key=self._dropout_key)
            inner = mx.where(kept, x * (1 / (1 - self.dropout)), 0).astype(x.dtype)
        z = (inner @ self.lora_a.astype(x.dtype)) @ self.lora_b.astype(x.dtype)
        return y + (self.scale * z).astype(y.dtype)


def multiply_frozen(linear: nn.Module, x: mx.array) -> mx.array:
    """Apply a frozen linear layer; a quantized one in the way that is faster for the number of rows.

    `quantized_matmul` reads packed weights for every few rows: right when generating, slow for the thousands of rows
    of a training step, where the weights are unpacked once and multiplied as a matrix. The backward pass unpacks them
    again, so that the unpacked matrix is never kept.

    Args:
        linear: `nn.Linear` or `nn.QuantizedLinear`; gets no gradient.
        x: f[..., inputs].

    Returns:
        f[..., outputs] in the type of `x`.
    """
    if not isinstance(linear, nn.QuantizedLinear) or x.size < UNPACK_FROM_ROWS * x.shape[-1]:
        plain: mx.array = linear(x)
        return plain

    def unpacked() -> mx.array:
        weight: mx.array = mx.dequantize(
            linear.weight,
            linear.scales,
            linear.get("biases"),
            group_size=linear.group_size,
            bits=linear.bits,
            mode=linear.mode,
        )
        return weight.astype(x.dtype)

    @mx.custom_function
    def product(x: mx.array) -> mx.array:
        return x @ unpacked().T

    @product.vjp
    def product_vjp(_: mx.array, cotangent: mx.array, __: mx.array) -> mx.array:
        return cotangent @ unpacked()

    y = cast("mx.array", product(x))
    return mx.add(y, linear.bias) if "bias" in linear else y


def linear_shape(linear: nn.Module) -> tuple[int, int]:
    """Return (outputs, inputs) of a plain or quantized linear layer."""
    n_outputs, n_inputs = linear.weight.shape
    if isinstance(linear, nn.QuantizedLinear):
        n_inputs = n_inputs * 32 // linear.bits
    return n_outputs, n_inputs


def find_targets(
    model: nn.Module, targets: Sequence[str], language_prefix: str, excluded: Iterable[str] = ()
) -> list[str]:
    """Name the linear layers that get an adapter.

    Args:
        model: The whole model, without adapters.
        targets: Suffixes ("q_proj", "self_attn.q_proj") or qualified names. A suffix means layers of the
            language model, or of the whole model where the language model has none. Empty means all linear
            layers of the language model but its head and its expert routers.
        language_prefix: The language model's name within the model.
        excluded: Last parts of the names of layers that the family cannot have wrapped.

    Returns:
        Qualified names in the model's order.

    Raises:
        ModelError: A target that matches nothing; the message names near ones.
    """
    linears = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.QuantizedLinear))]
    barred = set(excluded)
    linears = [name for name in linears if not barred & set(name.split("."))]
    language = [name for name in linears if name.startswith(f"{language_prefix}.")]
    if not targets:
        return [name for name in language if not _is_router(name) and not _is_head(name)]
    found: set[str] = set()
    for target in targets:
        matches = [name for name in language if _matches(name, target)]
        matches = matches or [name for name in linears if _matches(name, target)]
        if not matches:
            known = sorted({name.rpartition(".")[2] for name in linears} | set(linears))
            near = difflib.get_close_matches(target, known, n=3, cutoff=0.4)
            msg = f"lora.targets: {target!r} matches no linear layer of the model; near: {', '.join(near or known[:8])}"
            raise ModelError(msg)
        found.update(matches)
    return [name for name in linears if name in found]


def attach_lora(
    model: nn.Module,
    names: Sequence[str],
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    seed: int = 0,
) -> None:
    """Wrap the named linear layers in place. Freeze the model before, so that only adapters train.

    Args:
        model: The whole model.
        names: As `find_targets` returns them.
        rank: R.
        alpha: The update is scaled by alpha / rank.
        dropout: In [0, 1).
        seed: Fixes the factors' start.
    """
    modules = dict(model.named_modules())
    keys = mx.random.split(mx.random.key(seed), max(1, len(names)))
    wrapped = [
        (name, LoRALinear(modules[name], rank, alpha / rank, dropout, key))
        for name, key in zip(names, list(keys), strict=False)
    ]
    model.update_modules(tree_unflatten(wrapped))


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """Yield the adapters of a model with their names."""
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module


def quantize_language(
    model: nn.Module, language_prefix: str, bits: int, group_size: int, excluded: Iterable[str] = ()
) -> dict[str, Any]:
    """Quantize the floating-point linear layers and embeddings of the language model, in place.

    Args:
        model: The whole model.
        language_prefix: The language model's name within the model.
        bits: Of a weight.
        group_size: How many weights share a scale.
        excluded: Last parts of the names of layers whose weights the model reads directly.

    Returns:
        Name to group size, bits and mode of each, as an adapter's configuration records it, so that the same
        base can be rebuilt from the floating-point checkpoint.

    Raises:
        ModelError: No layer can be quantized.
    """
    scheme = {"group_size": group_size, "bits": bits, "mode": "affine"}
    barred = set(excluded)
    chosen = {
        name: scheme
        for name, module in model.named_modules()
        if name.startswith(f"{language_prefix}.")
        and isinstance(module, (nn.Linear, nn.Embedding))
        and module.weight.shape[-1] % group_size == 0
        and not _is_router(name)
        and name.rpartition(".")[2] not in barred
    }
    if not chosen:
        msg = (
            f"model.quantize_bits: no layer of the language model has a width divisible by the group size "
            f"{group_size}; set model.quantize_group_size to 32, or leave quantize_bits out"
        )
        raise ModelError(msg)
    nn.quantize(model, class_predicate=lambda name, _: chosen.get(name, False))
    return chosen


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _is_router(name: str) -> bool:
    return not set(ROUTERS).isdisjoint(name.split("."))


def _is_head(name: str) -> bool:
    return name.rpartition(".")[2] in HEADS and ".layers." not in name and ".blocks." not in name
