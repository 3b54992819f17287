"""Molmo. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..forward.attention_masks import row_mask
from ..forward.corrections import approximate_gelu, forget_attributes
from ..forward.lm_inputs import SEGMENTS, LMInputs
from .family import Family, Format, Forward, Parts

_FUSED_HEAD = forget_attributes("_fused")


MOLMO2_IMAGE_TOKENS = (
    "image_patch_id",
    "image_low_res_id",
    "image_col_id",
    "image_start_token_id",
    "low_res_image_start_token_id",
    "image_end_token_id",
    "frame_start_token_id",
    "frame_end_token_id",
)
"""Where Molmo 2's configuration names the tokens that its processor writes for images."""


def match_reference_molmo2(model: nn.Module) -> AbstractContextManager[None]:
    """Use the published activation in Molmo 2's tower; mlx-vlm has a coarser one (molmo2/vision.py:13)."""
    return approximate_gelu("tanh", model.vision_tower.image_vit)


def finish_molmo2(model: nn.Module, tokens: mx.array, inputs: dict[str, Any], fields: LMInputs) -> LMInputs:
    """Mark all image tokens of a row of Molmo 2, separators and ends among them, as one block."""
    if inputs.get("pixel_values") is None:
        return fields
    ids = [int(getattr(model.config, name)) for name in MOLMO2_IMAGE_TOKENS]
    return {**fields, "blocks": mx.array(np.isin(np.array(tokens), ids).astype(np.int32))}


def finish_molmo_point(_: nn.Module, __: mx.array, inputs: dict[str, Any], fields: LMInputs) -> LMInputs:
    """Mark all image tokens of a row of Molmo-Point as one block, as its processor does."""
    if "token_type_ids" not in inputs:
        return fields
    return {**fields, "blocks": inputs["token_type_ids"].astype(mx.int32)}


def forward_molmo2(model: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Run Molmo 2's or Molmo-Point's language model with bidirectional attention among image tokens, as published.

    mlx-vlm's prefill is causal (molmo2/language.py:175, molmo_point/language.py:179), though Molmo-Point's processor
    marks the tokens (processing_molmo_point.py:207).
    """
    fields = dict(fields)
    blocks, segments = fields.pop("blocks", None), fields.pop(SEGMENTS, None)
    if blocks is None and segments is not None:
        blocks = mx.zeros_like(segments)
    mask = None if blocks is None else row_mask(fields.get("cache"), blocks, segments=segments)
    language_model = model.lm if "lm" in model else model.language_model
    logits: mx.array = language_model(tokens, **{"mask": mask, "cache": None, **fields}).logits
    return logits


FAMILIES: Mapping[str, Family] = {
    # The type of patches is that of `patch_embedding.weight` (molmo/molmo.py:44, molmo2/molmo2.py:298).
    "molmo": Family(
        parts=Parts(embedding_parts=("wte",), no_adapter=("patch_embedding",)), forward=Forward(packs=True)
    ),
    "molmo2": Family(
        format=Format(image_mark="<|image|>", image_id=-200),
        parts=Parts(embedding_parts=("wte",), no_adapter=("patch_embedding",)),
        forward=Forward(
            packs=True, embed_overrides=match_reference_molmo2, finish_inputs=finish_molmo2, forward=forward_molmo2
        ),
        upstream_differs=(
            "image tokens do not see later ones of their image, and the tower has another activation "
            "(molmo2/language.py:175, vision.py:13)"
        ),
    ),
    "molmo_point": Family(
        format=Format(image_mark="<|image|>", image_id=-200, opens_with_eos=True),
        parts=Parts(language_model="lm", embedding_parts=("wte",), no_adapter=("patch_embedding",)),
        forward=Forward(
            packs=True,
            finish_inputs=finish_molmo_point,
            forward=forward_molmo2,
            embed_overrides=_FUSED_HEAD,
            train_overrides=_FUSED_HEAD,
        ),
        upstream_differs="image tokens do not see later ones of their image (molmo_point/language.py:179)",
    ),
}
