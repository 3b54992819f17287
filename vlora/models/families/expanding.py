"""Families in which one token stands for an image and becomes all its features within the model.

The text keeps its order, but no longer its places: with the embeddings goes where each token's logit stands. Versions
and lines: mlx-vlm 0.7.10.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..forward.lm_inputs import LOGIT_PLACES, LMInputs

PHI4_SIGLIP_IMAGE = -200
"""The id that stands for an image; a constant of mlx-vlm's (phi4_siglip/phi4_siglip.py:14), not in config.json."""


def expand_features(table: nn.Module, tokens: mx.array, features: Sequence[mx.array], image_id: int) -> LMInputs:
    """Put each image's features in the place of its token.

    Args:
        table: The embedding of text.
        tokens: i32[1, T]; the image's id may be negative.
        features: Per image f[N, D].
        image_id: The id that stands for an image.

    Returns:
        The embeddings f[1, T', D], and where in them the logit stands that predicts the token after each, i32[1, T].

    Raises:
        ValueError: The images are not as many as their tokens.
    """
    ids = np.array(tokens[0])
    marks = np.flatnonzero(ids == image_id).tolist()
    if len(marks) != len(features):
        msg = f"{len(marks)} image tokens stand for {len(features)} images"
        raise ValueError(msg)
    text = table(mx.maximum(tokens, 0))[0]
    parts, start = [], 0
    lengths = np.ones(len(ids), dtype=np.int32)
    for mark, image in zip(marks, features, strict=True):
        parts += [text[start:mark], image.astype(text.dtype)]
        lengths[mark] = image.shape[0]
        start = mark + 1
    places = np.cumsum(lengths, dtype=np.int32) - 1
    return {"inputs_embeds": mx.concatenate([*parts, text[start:]])[None], LOGIT_PLACES: mx.array(places)[None]}


def embed_fastvlm(model: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> LMInputs:
    """Embed a row of FastVLM.

    mlx-vlm cuts the text where the images stand among all ids, but the ids of earlier images are gone by then
    (fastvlm/fastvlm.py:134), so that every image after the first stands too late.

    Raises:
        ValueError: The images are not as many as their tokens.
    """
    features: list[mx.array] = []
    pixels = inputs.get("pixel_values")
    if pixels is not None:
        weight = model.vision_tower.vision_model.patch_embed.blocks[0].reparam_conv.weight
        _, states, _ = model.vision_tower(pixels.transpose(0, 2, 3, 1).astype(weight.dtype))
        features = list(model.mm_projector(states.flatten(1, 2)))
    return expand_features(model.language_model.model.embed_tokens, tokens, features, model.config.image_token_index)


def embed_llava_bunny(model: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> LMInputs:
    """Embed a row of Bunny with any number of images.

    mlx-vlm takes the first image and the first placeholder of a row (llava_bunny/llava_bunny.py:137), and looks up
    embeddings of negative ids (:109), which lie outside of the table.

    Raises:
        ValueError: The images are not as many as their tokens.
    """
    features: list[mx.array] = []
    pixels = inputs.get("pixel_values")
    if pixels is not None:
        *_, states = model.vision_tower(pixels.transpose(0, 2, 3, 1), output_hidden_states=True)
        features = list(model.mm_projector(states[-1]))
    return expand_features(model.language_model.model.embed_tokens, tokens, features, model.config.image_token_index)


def embed_phi4_siglip(model: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> LMInputs:
    """Embed a row of Phi-4-reasoning-vision: each image goes through the tower without the padding behind its patches.

    mlx-vlm's tower gets no mask, so that patches attend to padding (phi4_siglip/vision.py:134).

    Raises:
        ValueError: The images are not as many as their tokens.
    """
    features = []
    pixels = inputs.get("pixel_values")
    if pixels is not None:
        shapes = np.array(inputs["spatial_shapes"])
        for image, (rows, columns) in enumerate(shapes.tolist()):
            one = slice(image, image + 1)
            states, _, _ = model.vision_tower(
                pixels[one, : rows * columns], output_hidden_states=True, spatial_shapes=mx.array(shapes[one])
            )
            features.append(model.mm_projector(states[model.config.mm_vision_select_layer][0]))
    return expand_features(model.language_model.model.embed_tokens, tokens, features, PHI4_SIGLIP_IMAGE)


def embed_phi4mm(model: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> LMInputs:
    """Embed a row of Phi-4-multimodal with images; mlx-vlm's own does not say where the text went.

    Raises:
        ValueError: The images are not as many as their tokens.
    """
    features: list[mx.array] = []
    pixels = inputs.get("pixel_values")
    if pixels is not None:
        states = model.vision_tower(pixels, inputs.get("pixel_attention_mask"), inputs.get("spatial_shapes"))
        features = list(model.apply_mm_projector(states))
    return expand_features(model.language_model.model.embed_tokens, tokens, features, model.config.image_token_index)
