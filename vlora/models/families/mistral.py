"""Mistral's families. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping
from contextlib import nullcontext

import mlx.core as mx
import mlx.nn as nn

from ..forward.attention_masks import masks_within
from ..forward.lm_inputs import SEGMENTS, LMInputs
from ..forward.overrides import override_call
from .family import Family, Forward


def forward_ignoring_ids(module: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Run a language model that ignores given embeddings and embeds the ids (deepseek_v3/language.py:510).

    Otherwise Mistral Large 3 would not see its images, as in mlx-vlm's own generation.
    """
    table = module.language_model.model.embed_tokens
    embedded = override_call(table, lambda *_: fields["inputs_embeds"])
    segments = fields.get(SEGMENTS)
    with embedded, nullcontext() if segments is None else masks_within(module, segments):
        logits: mx.array = module.language_model(tokens, cache=fields.get("cache")).logits
    return logits


FAMILIES: Mapping[str, Family] = {
    "pixtral": Family(is_proven=True, forward=Forward(packs=True)),
    "mistral3": Family(forward=Forward(packs=True)),
    "mistral_large3": Family(
        forward=Forward(packs=True, forward=forward_ignoring_ids),
        upstream_differs="embeddings, and with them images, are dropped (deepseek_v3/language.py:510)",
    ),
}
