"""Finds how a configuration scales rotary embeddings, and scales those that mlx-vlm leaves unscaled."""

from collections.abc import Mapping
from typing import Any

import mlx.nn as nn
from mlx_vlm.models.rope_utils import initialize_rope

from ...errors import ModelError

PLAIN_TYPES = ("default", "mrope", "axial")
"""Types of rotary embedding without scaling: they give only theta, and the axis of each part."""


MENDED_TYPES = ("linear", "llama3")
"""Types of scaling that are applied here where mlx-vlm's classes do not."""


SCALED_TYPES = (*MENDED_TYPES, "yarn", "longrope")
"""All types that change a model's results within its original context."""


def rope_type(rope: Mapping[str, Any]) -> str:
    """Name the type of a rotary embedding, as either version of transformers writes it."""
    return str(rope.get("rope_type", rope.get("type", "default")))


def find_scaling(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a language model's rotary embedding if all layers have the same scaling; None otherwise.

    Args:
        config: A config.json of either version.
    """
    root = config.get("thinker_config") or config
    text = root.get("text_config") or root.get("llm_config") or root
    rope = text.get("rope_parameters") or text.get("rope_scaling")
    if not isinstance(rope, Mapping) or rope_type(rope) not in SCALED_TYPES:
        return None
    return {**rope, "type": rope_type(rope), "rope_type": rope_type(rope)}


def scale_rotations(language_model: nn.Module, scaling: Mapping[str, Any], name: str) -> None:
    """Scale a language model's rotary embeddings as its configuration says, if none of them is.

    Classes without a field for the scaling silently drop it: idefics2/language.py:32, idefics3/language.py:32
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
        msg = f"{name!r} scales its rotary embedding ({scaling['type']}), which mlx-vlm does not do here"
        raise ModelError(msg, key="model.path")
    for parent, key, child in rotations:
        parent[key] = initialize_rope(child.dims, child.base, child.traditional, dict(scaling))
