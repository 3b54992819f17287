"""InternVL, in the layout of transformers and in its own. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_vlm.models.base import pixel_shuffle

from ...data.format.boxes import (
    INTERNVL_BOXES,
)
from ..forward.corrections import approximate_gelu
from ..forward.lm_inputs import LMInputs
from ..forward.merging import merge_features, scatter_features
from ..forward.overrides import chain
from .expanding import WITHOUT_TOKEN
from .family import Family, Format, Forward


def embed_internvl(model: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> LMInputs:
    """Embed a row of InternVL (the layout of transformers).

    mlx-vlm assigns features to slices (internvl/internvl.py:68), which has no gradient with respect to them, and
    approximates the activation, which is exact in the published models (internvl/internvl.py:21,
    internvl_chat/vision.py:70).
    """
    embeds = model.language_model.model.embed_tokens(tokens)
    pixels = inputs.get("pixel_values")
    if pixels is None:
        return {"inputs_embeds": embeds}
    pixels = pixels.reshape(-1, *pixels.shape[-3:]).transpose(0, 2, 3, 1)
    weight = model.vision_tower.embeddings.patch_embeddings.projection.weight
    with approximate_gelu("none", model.vision_tower, model.multi_modal_projector):
        states, _ = model.vision_tower(pixels.astype(weight.dtype))
        features = model.multi_modal_projector(pixel_shuffle(states[:, 1:], model.config.downsample_ratio))
    is_image = np.array(tokens) == model.config.image_token_id
    return {"inputs_embeds": scatter_features(embeds, features.reshape(-1, embeds.shape[-1]), is_image)}


def match_reference_intern_vit(model: nn.Module) -> AbstractContextManager[None]:
    """Use the exact activation in InternVL's tower (internvl_chat/vision.py:70)."""
    return approximate_gelu("none", model.vision_model)


FAMILIES: Mapping[str, Family] = {
    "internvl": Family(
        format=Format(boxes=INTERNVL_BOXES),
        forward=Forward(packs=True, embed=embed_internvl),
        upstream_differs="the projector's activation is approximated (internvl/internvl.py:21)",
    ),
    "internvl_chat": Family(
        # mlx-vlm's template asks for answers after another text than it writes them, and never ends them
        # (internvl_chat/processor.py:17).
        # mlx-vlm's template asks for answers after another text than it writes them, and never ends them
        # (internvl_chat/processor.py:17).
        format=Format(has_own_template=True, boxes=INTERNVL_BOXES, **WITHOUT_TOKEN),
        forward=Forward(packs=True, embed_overrides=chain(merge_features, match_reference_intern_vit)),
        upstream_differs="the tower's activation is approximated (internvl_chat/vision.py:70)",
    ),
}
