"""Which layers mlx-vlm's own conversion quantizes, and what its configuration then says."""

import copy
from collections import Counter
from collections.abc import Mapping
from typing import Any

import mlx.nn as nn
from mlx_vlm.quant_utils import get_quantization_params
from mlx_vlm.utils import skip_multimodal_module

Scheme = Mapping[str, Any]
"""group_size, bits and mode of a quantized layer."""

SETTINGS = ("group_size", "bits", "mode")
GROUP_SIZE = 64
"""Of mlx-vlm's conversion."""


def choose_schemes(module: nn.Module, bits: int) -> dict[str, Scheme]:
    """Say how `mlx_vlm.convert --quantize` would quantize each layer: those of the language model that can be.

    Args:
        module: The model, plain or quantized.
        bits: Of a weight.
    """
    common = get_quantization_params(GROUP_SIZE, bits, "affine")
    own = getattr(module, "quant_predicate", None)
    chosen: dict[str, Scheme] = {}
    for name, layer in module.named_modules():
        is_packed = scheme_of(layer) is not None
        if skip_multimodal_module(name) or not (is_packed or hasattr(layer, "to_quantized")):
            continue
        found = True if own is None else own(name, layer)
        width = layer.weight.shape[-1] * (32 // layer.bits if is_packed else 1)
        settings = {**common, **(found if isinstance(found, dict) else {})}
        fallback = settings.pop("fallback_group_size", None)
        if fallback is not None and width % settings["group_size"]:
            settings["group_size"] = fallback
        if found and width % settings["group_size"] == 0:
            chosen[name] = {"mode": "affine", **settings}
    return chosen


def scheme_of(layer: nn.Module) -> Scheme | None:
    """Say how a layer is quantized; None where it is not."""
    if not {"weight", "scales"} <= set(layer) or not hasattr(layer, "bits"):
        return None
    return {"group_size": layer.group_size, "bits": layer.bits, "mode": getattr(layer, "mode", "affine")}


def quantized_config(config: Mapping[str, Any], schemes: Mapping[str, Scheme]) -> dict[str, Any]:
    """Write in a model's configuration how its layers are quantized, as mlx-vlm's conversion does.

    Args:
        config: The model's, in mlx-vlm's words.
        schemes: Layers to how they are quantized; none for a model that is not.
    """
    written = copy.deepcopy({key: value for key, value in config.items() if key != "generation_config"})
    for part in (written, written.get("text_config") or {}):
        part.pop("quantization", None)
        part.pop("quantization_config", None)
    if schemes:
        kinds = Counter(tuple(scheme[key] for key in SETTINGS) for scheme in schemes.values())
        common = dict(zip(SETTINGS, kinds.most_common(1)[0][0], strict=True))
        others = {name: dict(scheme) for name, scheme in schemes.items() if dict(scheme) != common}
        written["quantization"] = {**common, **others}
        written["quantization_config"] = {**common, **others}
    return written
