"""Mllama, Llama 3.2 Vision. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..forward.lm_inputs import LMInputs
from .family import Family, Forward


def no_cross_attention(model: nn.Module, tokens: mx.array, inputs: dict[str, Any], fields: LMInputs) -> LMInputs:
    """Make Mllama's cross-attention layers add nothing to a row without images.

    The published model skips those layers then; mlx-vlm's has no way to skip them for one row of a batch. A zero
    state gives zero values (no biases), and a zero full-row mask silences the gated MLP: the layers add exactly 0.
    """
    if inputs:
        return fields
    length = tokens.shape[1]
    width = model.config.text_config.hidden_size
    return {
        **fields,
        "cross_attention_states": mx.zeros((1, 1, width), dtype=fields["inputs_embeds"].dtype),
        "cross_attention_mask": mx.zeros((1, 1, length, 1)),
        "full_text_row_masked_out_mask": mx.zeros((1, 1, length, 1), dtype=mx.bool_),
    }


FAMILIES: Mapping[str, Family] = {
    "mllama": Family(
        is_proven=True,
        forward=Forward(
            finish_inputs=no_cross_attention, equal_prompts="some layers keep the keys of images, and not of tokens"
        ),
        upstream_differs="text alone goes through the cross-attention layers, which the published model skips",
    ),
}
