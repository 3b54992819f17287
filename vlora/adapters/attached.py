"""The adapters that a model has: which layers, of which types, under which names they are saved. Pure."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..ops.modules import named_modules
from .layers import Adapter, DoRALinear


def lora_layers(model: nn.Module) -> Iterator[tuple[str, Adapter]]:
    """Yield the adapters of a model with their names, in the model's order."""
    for name, module in named_modules(model):
        if isinstance(module, Adapter):
            yield name, module


@contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """Let a model be its base while the `with` lasts; of adapters that start from PiSSA, that with its own weights."""
    layers = [layer for _, layer in lora_layers(model)]
    try:
        for layer in layers:
            layer._is_off = True  # noqa: SLF001
        yield
    finally:
        for layer in layers:
            layer._is_off = False  # noqa: SLF001


def compute_dtypes(model: nn.Module) -> dict[str, mx.Dtype]:
    """Find the type in which a step uses each trainable parameter: its own, or that of an adapter's frozen layer."""
    types = {name: value.dtype for name, value in tree_flatten(model.trainable_parameters())}
    for name, layer in lora_layers(model):
        weight = layer.linear.get("scales", layer.linear.weight)
        # DoRA's norms are of the masters; packed scales (mxfp4, nvfp4) do not say of what type the layer's input is.
        if not isinstance(layer, DoRALinear) and mx.issubdtype(weight.dtype, mx.floating):
            types |= dict.fromkeys((f"{name}.lora_a", f"{name}.lora_b"), weight.dtype)
    return types


def adapter_state_dict(model: nn.Module, params: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Give trained parameters as they are saved: every adapter as a LoRA on the original base.

    Args:
        model: The model with its adapters.
        params: Trained parameters by name.

    Returns:
        Name to array; twice the rank where an adapter started from the principal part of its weights.
    """
    arrays = dict(params)
    for name, layer in lora_layers(model):
        a, b = f"{name}.lora_a", f"{name}.lora_b"
        arrays[a], arrays[b] = layer.effective_factors(params[a], params[b])
    return arrays


def summarize(names: Iterable[str]) -> list[str]:
    """Write names of layers for people: those that differ in their numbers only become one, with their count.

    >>> summarize(["layers.0.q_proj", "layers.1.q_proj", "merger"])
    ['layers.*.q_proj (2)', 'merger']
    """
    counts = Counter(re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", name) for name in names)
    return [f"{pattern} ({count})" if "*" in pattern else pattern for pattern, count in counts.items()]
