"""LLaVA and its descendants. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..forward.lm_inputs import LMInputs
from ..forward.merging import merge_features
from .expanding import WITHOUT_TOKEN, expand_features
from .family import Family, Format, Forward
from .tiles import embed_llava_next, embed_packed

LLAVA_ONEVISION_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}"
    "{% if message['role'] != 'assistant' %} {% endif %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ '\n' + part['text'] }}{% endfor %}"
    "<|im_end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""LLaVA-OneVision's published template without one space: it writes answers after "assistant \\n" and asks for them
after "assistant\\n", so that training and generation would have different prompts."""


def embed_llava_onevision(model: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> LMInputs:
    """Embed a row of LLaVA-OneVision: as LLaVA-NeXT, but large pictures are pooled.

    mlx-vlm cuts the padding off without rounding first (llava_onevision/llava_onevision.py:44), so that some sizes
    give more features than the processor writes tokens. Videos are embedded by the model itself.

    Raises:
        ValueError: The numbers of image tokens and of features differ.
    """
    n_kept = int(str(model.config.vision_aspect_ratio).removeprefix("anyres_max_"))
    return embed_packed(model, tokens, inputs, model.config.image_grid_pinpoints, n_kept)


def embed_fastvlm(model: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> LMInputs:
    """Embed a row of FastVLM.

    mlx-vlm cuts the text where the images stand among all ids, but the ids of earlier images are gone by then
    (fastvlm/fastvlm.py:134), so that every image after the first stands too late.

    Raises:
        ValueError: The numbers of images and of their tokens differ.
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
        ValueError: The numbers of images and of their tokens differ.
    """
    features: list[mx.array] = []
    pixels = inputs.get("pixel_values")
    if pixels is not None:
        *_, states = model.vision_tower(pixels.transpose(0, 2, 3, 1), output_hidden_states=True)
        features = list(model.mm_projector(states[-1]))
    return expand_features(model.language_model.model.embed_tokens, tokens, features, model.config.image_token_index)


FAMILIES: Mapping[str, Family] = {
    "llava": Family(is_proven=True, forward=Forward(packs=True, embed_overrides=merge_features)),
    "llava_next": Family(
        forward=Forward(packs=True, embed=embed_llava_next, config_keys=("image_grid_pinpoints",)),
        upstream_differs="a whole tile stands in the place of every image token (llava_next/llava_next.py:118)",
    ),
    "llava_onevision": Family(
        format=Format(template=LLAVA_ONEVISION_TEMPLATE), forward=Forward(packs=True, embed=embed_llava_onevision)
    ),
    "llava_bunny": Family(
        format=Format(**WITHOUT_TOKEN),
        forward=Forward(embed=embed_llava_bunny),
        upstream_differs=(
            "it takes the first image only, and only one size of tower (llava_bunny/llava_bunny.py:137, :120)"
        ),
    ),
    "fastvlm": Family(
        format=Format(**WITHOUT_TOKEN),
        forward=Forward(embed=embed_fastvlm),
        upstream_differs="every image after the first stands too late (fastvlm/fastvlm.py:134)",
    ),
    "llmjpvl": Family(forward=Forward(packs=True, embed_overrides=merge_features)),
}
