"""Granite's families. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..forward.calls import call_language_model
from ..forward.corrections import approximate_gelu
from ..forward.lm_inputs import LMInputs
from ..forward.merging import scatter_features
from ..forward.overrides import override_attributes
from .family import Family, Forward, Parts
from .tiles import embed_llava_next, encode_views, pack_views, without_class_token

QFORMER_EPSILON = 1e-12
"""The published epsilon of the norms of Granite 4 Vision's connectors."""


def fix_granite4(model: nn.Module) -> None:
    """Give the norms of the connectors their epsilon; mlx-vlm leaves MLX's 1e-5 (granite4_vision/qformer.py:80)."""
    for projector in (*model.layerwise_projectors, *(model.spatial_projectors or ())):
        for _, module in projector.qformer.named_modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = QFORMER_EPSILON


def embed_granite4(model: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> LMInputs:
    """Embed a row of Granite 4 Vision: image tokens are zero, and features of their own are added before some layers.

    mlx-vlm reads the first image only (granite4_vision/granite4_vision.py:164), cuts the padding off without rounding
    first (:37), repeats the last feature where it has fewer than tokens (:257), and has another activation in its tower
    than SigLIP (granite4_vision/vision.py:77).

    Raises:
        ValueError: The numbers of image tokens and of features differ.
    """
    embeds = model.language_model.model.embed_tokens(tokens)
    if inputs.get("pixel_values") is None:
        return {"inputs_embeds": embeds}
    config = model.config
    with approximate_gelu("tanh", model.vision_tower):
        states, images = encode_views(model, inputs, config.image_grid_pinpoints)
    is_image = np.array(tokens) == config.image_token_index
    projected = [
        projector(without_class_token(config, states[layer]))
        for (layer, _), projector in zip(config.deepstack_layer_map or (), model.layerwise_projectors, strict=True)
    ]
    if config.use_spatial_sampling:
        features = without_class_token(config, states[config.spatial_vision_layer])
        projected += [
            projector(features)
            for _, projector in zip(config.spatial_target_layers or (), model.spatial_projectors, strict=False)
        ]
    nothing = mx.zeros_like(embeds)
    return {
        "inputs_embeds": mx.where(mx.array(is_image)[..., None], nothing, embeds),
        "visual_pos_masks": mx.array(is_image),
        "deepstack_visual_embeds": [
            scatter_features(nothing, pack_views(features, images, model.image_newline, None), is_image)
            for features in projected
        ],
    }


class AlongTokens:
    """Features f[B, T, D] that are sliced along T by code for single rows, which slices the first axis."""

    def __init__(self, features: mx.array) -> None:
        self._features = features

    def __getitem__(self, tokens: slice) -> mx.array:
        """Slice along T."""
        return self._features[:, tokens]


def forward_granite4(module: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Add each row's own image features in the layers; mlx-vlm takes row 0's (granite4_vision/language.py:176).

    The layers are passed here: mlx-vlm sets them on the module when it embeds (granite4_vision/granite4_vision.py:276).
    """
    config = module.config
    targets = [layer for _, layer in config.deepstack_layer_map or ()]
    if config.use_spatial_sampling:
        targets += config.spatial_target_layers or ()
    layers = [AlongTokens(layer) for layer in fields.get("deepstack_visual_embeds", ())]
    with override_attributes(module.language_model.model, _deepstack_target_layers=targets):
        return call_language_model(module, tokens, {**fields, "deepstack_visual_embeds": layers} if layers else fields)


FAMILIES: Mapping[str, Family] = {
    "granite_vision": Family(
        forward=Forward(packs=True, embed=embed_llava_next),
        upstream_differs=(
            "a whole tile stands in the place of every image token (granite_vision/granite_vision.py:134)"
        ),
    ),
    "granite4_vision": Family(
        # No feature is made by the tower's pooling head, and a part of it is no layer in transformers.
        parts=Parts(no_adapter=("head",)),
        forward=Forward(packs=True, fix_weights=fix_granite4, embed=embed_granite4, forward=forward_granite4),
        upstream_differs=(
            "only the first image is read, and the tower has another activation "
            "(granite4_vision/granite4_vision.py:164, vision.py:77)"
        ),
    ),
}
