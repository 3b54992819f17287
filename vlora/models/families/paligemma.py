"""PaliGemma. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ...data.format.boxes import (
    PALIGEMMA_BOXES,
)
from ..forward.attention_masks import own_masks, row_mask
from ..forward.calls import call_language_model
from ..forward.lm_inputs import SEGMENTS, LMInputs
from ..forward.merging import scatter_features
from .family import Family, Format, Forward
from .siglip import fix_siglip

PALIGEMMA_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.index0 > 1 or message['role'] != ('user', 'assistant')[loop.index0] %}"
    "{{ raise_exception('PaliGemma answers one question about its images, without a system prompt') }}{% endif %}"
    "{% set texts = message['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') | join %}"
    "{% if message['role'] == 'assistant' %}{{ texts + eos_token }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ image_token }}{% endfor %}"
    "{{ bos_token + texts | trim + '\n' }}{% endif %}"
    "{% endfor %}"
)
"""PaliGemma's format, for which it has no template: images, BOS, the prompt, a line break, the answer, EOS."""


def embed_paligemma(module: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> LMInputs:
    """Embed a row, all of its images, and mark the prompt as a block, as the processor's token types say.

    The language model multiplies all embeddings by the root of its width, and images are not to be scaled: they are
    divided by it. mlx-vlm divides them by the root of `config.hidden_size` (paligemma/paligemma.py:97), which is 2048
    unless it is configured, takes the first image alone (paligemma/vision.py:49), and puts its features at the row's
    beginning whatever stands there (paligemma/paligemma.py:118).
    """
    embeds = module.language_model.model.embed_tokens(tokens)
    if "pixel_values" not in inputs:
        return {"inputs_embeds": embeds, "blocks": mx.zeros(tokens.shape, dtype=mx.int32)}
    pixels = inputs["pixel_values"].transpose(0, 2, 3, 1).astype(embeds.dtype)
    *_, states = module.vision_tower(pixels, output_hidden_states=True)
    hidden = module.vision_tower.vision_model.post_layernorm(states[-1])
    features = module.multi_modal_projector(hidden).flatten(0, 1)
    features = features / mx.array(module.config.text_config.hidden_size**0.5, dtype=features.dtype)
    is_image = np.array(tokens) == module.config.image_token_index
    return {
        "inputs_embeds": scatter_features(embeds, features, is_image),
        "blocks": (inputs["token_type_ids"] == 0).astype(mx.int32),
    }


def paligemma_masks(module: nn.Module) -> AbstractContextManager[None]:
    """Let PaliGemma 2's full and sliding layers take masks of their own; mlx-vlm gives all the full one."""
    language = module.language_model
    kinds = language.config.layer_types or ["full_attention"] * len(language.model.layers)
    divided: dict[str, list[nn.Module]] = {"full": [], "sliding": []}
    for kind, layer in zip(kinds, language.model.layers, strict=True):
        divided["sliding" if kind == "sliding_attention" else "full"].append(layer.self_attn)
    return own_masks(divided)


def forward_paligemma(module: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Run a prefix language model: bidirectional attention within the prompt, causal attention in the answer.

    With mlx-vlm's 2-D mask every token sees all others (paligemma/paligemma.py:134).
    """
    fields = dict(fields)
    blocks, segments = fields.pop("blocks"), fields.pop(SEGMENTS, None)
    window = module.language_model.config.sliding_window
    cache = fields.get("cache")
    sliding = row_mask(cache, blocks, window, whole_blocks=True, segments=segments)
    masks = {"full": row_mask(cache, blocks, segments=segments), "sliding": sliding}
    return call_language_model(module, tokens, {**fields, "mask": masks})


FAMILIES: Mapping[str, Family] = {
    "paligemma": Family(
        is_proven=True,
        format=Format(is_prefix_lm=True, boxes=PALIGEMMA_BOXES, template=PALIGEMMA_TEMPLATE),
        forward=Forward(
            packs=True,
            fix_weights=fix_siglip,
            embed=embed_paligemma,
            forward=forward_paligemma,
            train_overrides=paligemma_masks,
        ),
        upstream_differs=(
            "images are scaled by another width, and a tower's norm has another epsilon (paligemma/paligemma.py:97, "
            "paligemma/vision.py:87)"
        ),
    ),
}
