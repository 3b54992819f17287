"""Quantizes a language model when it is loaded."""

from typing import Any

import mlx.nn as nn

from ...adapters.model_parts import ModelParts
from ...adapters.targets import is_router
from ...errors import ModelError


def quantize_language(model: nn.Module, layout: ModelParts, bits: int, group_size: int) -> dict[str, Any]:
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
        and not {*layout.no_adapter}.intersection(name.split("."))
    }
    if not chosen:
        msg = (
            f"model.quantize_bits: no layer of the language model has a width divisible by the group size "
            f"{group_size}; set model.quantize_group_size to 32, or leave quantize_bits out"
        )
        raise ModelError(msg)
    nn.quantize(model, class_predicate=lambda name, _: chosen.get(name, False))
    return chosen
