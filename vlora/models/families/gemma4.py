"""Gemma 4. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..forward.attention_masks import number_runs, own_masks, row_mask
from ..forward.calls import call_language_model
from ..forward.lm_inputs import SEGMENTS, LMInputs
from .family import Family, Forward, Parts
from .gemma3n import hold_padding

GEMMA4_BUFFERS = (
    *("layer_scalar", "std_bias", "std_scale"),
    *("input_min", "input_max", "output_min", "output_max"),
)
"""Buffers of the published model, which mlx-vlm holds as parameters."""


def sees_images_whole(config: Mapping[str, Any]) -> bool:
    """Whether attention within images is bidirectional in a Gemma 4 of this config.json, as in mixtures of experts."""
    text = config.get("text_config") or {}
    return bool(text.get("use_bidirectional_attention") == "vision")


def finish_gemma4(module: nn.Module, tokens: mx.array, _: dict[str, Any], fields: LMInputs) -> LMInputs:
    """Mark each image as a block, if attention within images is bidirectional.

    Images use the per-layer embeddings of the padding token, which transformers does not train.
    """
    is_image = np.array(tokens)[0] == module.config.image_token_id
    fields = hold_padding(fields, is_image)
    if module.config.text_config.use_bidirectional_attention != "vision":
        return fields
    return {**fields, "blocks": number_runs(is_image)}


def gemma4_masks(module: nn.Module) -> AbstractContextManager[None]:
    """Let Gemma 4's full and sliding layers take masks of their own."""
    divided: dict[str, list[nn.Module]] = {"full": [], "sliding": []}
    for layer in module.language_model.model.layers:
        divided["sliding" if layer.layer_type == "sliding_attention" else "full"].append(layer.self_attn)
    return own_masks(divided)


def forward_gemma4(module: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Run Gemma 4's language model with bidirectional attention within images, in sliding layers and within the window.

    mlx-vlm lets images see themselves in all layers and beyond the window (gemma4/language.py:546), and reads values
    back to find out whether there are images (gemma4/language.py:494), which a trace cannot.
    """
    fields = dict(fields)
    blocks, segments = fields.pop("blocks", mx.zeros(tokens.shape, dtype=mx.int32)), fields.pop(SEGMENTS, None)
    window = module.language_model.config.sliding_window
    masks = {
        "full": row_mask(fields.get("cache"), mx.zeros_like(blocks), segments=segments),
        "sliding": row_mask(fields.get("cache"), blocks, window, segments=segments),
    }
    return call_language_model(module, tokens, {**fields, "mask": masks})


FAMILIES: Mapping[str, Family] = {
    "gemma4": Family(
        is_proven=True,
        # The tower asks it for its weights' type (gemma4/vision.py:314).
        parts=Parts(tables=GEMMA4_BUFFERS, no_adapter=("input_proj",)),
        forward=Forward(packs=True, finish_inputs=finish_gemma4, forward=forward_gemma4, train_overrides=gemma4_masks),
        upstream_differs="images see themselves in full layers too, and beyond the window (gemma4/language.py:546)",
        differs_if=sees_images_whole,
    ),
    "gemma4_unified": Family(
        parts=Parts(tables=GEMMA4_BUFFERS),
        forward=Forward(packs=True, finish_inputs=finish_gemma4, forward=forward_gemma4, train_overrides=gemma4_masks),
        upstream_differs="images see themselves in full layers too, and beyond the window (gemma4/language.py:546)",
    ),
}
