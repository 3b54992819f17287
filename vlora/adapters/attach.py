"""Adapters attached to a model: which kind each layer gets, and what its factors start from. Changes the model."""

from collections.abc import Callable, Sequence
from typing import Literal

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ..errors import ModelError
from ..ops.quantized import dequantized_weight, linear_shape
from .fused import FusedProjections
from .layers import DoRALinear, LoRALinear, LoRASwitchLinear
from .names import ATTENDS_ELSEWHERE, SHARE_INPUT
from .pissa import pissa_factors
from .targets import is_experts

Method = Literal["lora", "dora"]
Init = Literal["default", "pissa"]


def attach_lora(
    model: nn.Module,
    names: Sequence[str],
    *,
    rank: int,
    scale: float,
    dropout: float = 0.0,
    method: Method = "lora",
    init: Init = "default",
    seed: int = 0,
    on_wrapped: Callable[[str, nn.Module], None] | None = None,
) -> None:
    """Wrap the named layers in place. Freeze the model before, so that only adapters train.

    Args:
        model: The whole model.
        names: As `resolve_target_modules` returns them.
        rank: R.
        scale: What the product of the factors is multiplied with: alpha / rank, or alpha / sqrt(rank) (rsLoRA).
        dropout: In [0, 1).
        method: "dora" trains the length of every adapted row too.
        init: "pissa" starts from the principal part of each layer's weights.
        seed: Fixes the factors' start.
        on_wrapped: Is told the name of each layer that was wrapped, and the layer; its weights may have been read.

    Raises:
        ModelError: DoRA on a layer of experts, or a rank larger than a layer is wide with "pissa".
    """
    modules = dict(model.named_modules())
    keys = mx.random.split(mx.random.key(seed), max(1, len(names)))
    wrapped = []
    for name, key in zip(names, list(keys), strict=False):
        module = modules[name]
        kind: type[LoRALinear | LoRASwitchLinear] = DoRALinear if method == "dora" else LoRALinear
        if is_experts(module):
            if method == "dora":
                msg = f"lora.method: 'dora' has no form for experts, and {name} is a layer of experts; leave it out"
                raise ModelError(msg)
            kind = LoRASwitchLinear
        layer = kind(module, rank, scale, dropout, key)
        if init == "pissa":
            layer.set_initial_factors(*_principal_start(module, name, rank, scale, key))
        wrapped.append((name, layer))
        if on_wrapped is not None and (method == "dora" or init == "pissa"):
            on_wrapped(name, module)
    model.update_modules(tree_unflatten(wrapped))
    share_inputs(model)


def share_inputs(model: nn.Module) -> None:
    """Fuse the products of adapters that read the same input: those of queries, keys and values, of gate and up."""
    for name, module in model.named_modules():
        if any(word in name for word in ATTENDS_ELSEWHERE):
            continue
        for together in SHARE_INPUT:
            layers = [module[child] for child in together if type(module.get(child)) is LoRALinear]
            layers = [layer for layer in layers if layer.is_plain and layer.dropout == layers[0].dropout]
            widths = {linear_shape(layer.linear)[1] for layer in layers}
            if len(layers) > 1 and len(widths) == 1:
                shared = FusedProjections(layers)
                for layer in layers:
                    layer._shared = shared  # noqa: SLF001


def _principal_start(module: nn.Module, name: str, rank: int, scale: float, key: mx.array) -> tuple[mx.array, mx.array]:
    weight = dequantized_weight(module)
    if rank > min(weight.shape[-2:]):
        msg = f"lora.rank: found {rank} with lora.init = 'pissa', but {name} is {' x '.join(map(str, weight.shape))}"
        raise ModelError(msg)
    if not is_experts(module):
        return pissa_factors(weight, rank, scale, key)
    # As experts have them, the other way round.
    factors = [pissa_factors(expert, rank, scale, key) for expert in weight]
    return mx.stack([a.T for a, _ in factors]), mx.stack([b.T for _, b in factors])
