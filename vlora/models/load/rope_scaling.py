"""Rotary embeddings that mlx-vlm leaves unscaled."""

from collections.abc import Mapping
from typing import Any

import mlx.nn as nn
from mlx_vlm.models.rope_utils import initialize_rope

from ...errors import ModelError
from .config_translation import MENDED_TYPES


def scale_rotations(language_model: nn.Module, scaling: Mapping[str, Any], name: str) -> None:
    """Scale a language model's rotary embeddings as its configuration says, if none of them is.

    Classes without a field for it drop the scaling without a word: idefics2/language.py:32, idefics3/language.py:32
    (which the published Llama 3.1 checkpoints need), aya_vision/language.py:41, paligemma's and others. Where mlx-vlm
    scales at least one layer, it is left as it is.

    Args:
        language_model: The model; changed in place.
        scaling: As `find_scaling` gives it.
        name: What the user calls the model, for errors.

    Raises:
        ModelError: mlx-vlm scales none, and cannot scale it in that way here.
    """
    rotations = [
        (parent, key, child)
        for parent in language_model.modules()
        for key, child in parent.children().items()
        if isinstance(child, nn.Module) and any(word in type(child).__name__.lower() for word in ("rope", "rotary"))
    ]
    if not all(type(child) is nn.RoPE and child.scale == 1.0 for _, _, child in rotations):
        return
    if rotations and scaling["type"] not in MENDED_TYPES:
        msg = f"model.path: {name!r} scales its rotary embedding ({scaling['type']}), which mlx-vlm does not do here"
        raise ModelError(msg)
    for parent, key, child in rotations:
        parent[key] = initialize_rope(child.dims, child.base, child.traditional, dict(scaling))
