"""Gemma 3. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..forward.attention_masks import number_runs, own_masks, row_mask
from ..forward.calls import call_language_model
from ..forward.lm_inputs import SEGMENTS, LMInputs
from ..forward.overrides import chain, override_attributes
from ..forward.tied_head import TiedHead
from .family import Family, Format, Forward
from .siglip import fix_siglip


def fix_gemma3(module: nn.Module) -> None:
    """Tie the head, and give the tower's last norm its epsilon."""
    tie_head(module)
    fix_siglip(module)


def tie_head(module: nn.Module) -> None:
    """Tie the head to the embedding if they are equal.

    In Gemma they are tied, and `sanitize` (gemma3/language.py:266) makes the head a copy of the embedding for every
    checkpoint: training of a separate head would be lost on loading.
    """
    language = module.language_model
    parts = (language.lm_head, language.model.embed_tokens)
    head, embedding = (dict(tree_flatten(part.parameters())) for part in parts)
    if head.keys() == embedding.keys() and all(mx.array_equal(head[name], embedding[name]) for name in head):
        language.lm_head = TiedHead(language.model, "embed_tokens")


def finish_gemma3(module: nn.Module, tokens: mx.array, _: dict[str, Any], fields: LMInputs) -> LMInputs:
    """Mark each image as a block, and scale the embeddings as published.

    Text is multiplied by the root of the width and images are not. mlx-vlm multiplies all by that root, rounded to
    bfloat16 even for a model in float32 (gemma3/language.py:210), and divides images by the root of
    `config.hidden_size`, which published configurations do not set, so that it is the default 2048 and not the text
    model's width (gemma3/gemma3.py:139).
    """
    is_image = np.array(tokens)[0] == module.config.image_token_index
    embeds = fields["inputs_embeds"]
    scale = np.where(is_image, module.config.hidden_size**0.5, module.config.text_config.hidden_size**0.5)
    embeds = embeds * mx.array(scale.astype(np.float32))[None, :, None].astype(embeds.dtype)
    return {**fields, "inputs_embeds": embeds, "blocks": number_runs(is_image)}


def scaled_already(module: nn.Module) -> AbstractContextManager[None]:
    """Let Gemma 3 not scale the embeddings that it is given."""
    return override_attributes(module.language_model.model, scale_inputs_embeds=False)


def gemma3_masks(model: nn.Module) -> AbstractContextManager[None]:
    """Let Gemma 3's full and sliding layers take masks of their own."""
    language = model.language_model.model
    pattern = language.sliding_window_pattern
    divided: dict[str, list[nn.Module]] = {"full": [], "sliding": []}
    for number, layer in enumerate(language.layers):
        divided["full" if number % pattern == pattern - 1 else "sliding"].append(layer.self_attn)
    return own_masks(divided)


def forward_gemma3(model: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Run Gemma 3's language model with bidirectional attention inside each image.

    mlx-vlm builds a mask from the 2-D one that is not causal at all (gemma3/gemma3.py:169), and takes one mask for
    full and sliding layers alike (gemma3/language.py:234).
    """
    fields = dict(fields)
    blocks, segments = fields.pop("blocks"), fields.pop(SEGMENTS, None)
    window = model.language_model.config.sliding_window
    cache = fields.get("cache")
    masks = {
        "full": row_mask(cache, blocks, segments=segments),
        "sliding": row_mask(cache, blocks, window, segments=segments),
    }
    return call_language_model(model, tokens, {**fields, "mask": masks})


FAMILIES: Mapping[str, Family] = {
    "gemma3": Family(
        is_proven=True,
        format=Format(image_mark="<start_of_image>"),
        forward=Forward(
            packs=True,
            fix_weights=fix_gemma3,
            finish_inputs=finish_gemma3,
            forward=forward_gemma3,
            train_overrides=chain(gemma3_masks, scaled_already),
        ),
        upstream_differs=(
            "images are scaled by another width, and a tower's norm has another epsilon (gemma3/gemma3.py:139, "
            "gemma3/vision.py:87)"
        ),
    ),
}
