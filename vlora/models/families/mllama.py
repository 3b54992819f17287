"""Mllama, Llama 3.2 Vision. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..forward.collating import pad_edge
from ..forward.lm_inputs import MASKED, Layouts, LMInputs, PadSpec
from .family import Family, Forward

STATES_INPUTS: Layouts = {
    "cross_attention_states": PadSpec(token_axes=(), carries_gradient=True),
    "cross_attention_mask": PadSpec(token_axes=(2,)),
    "full_text_row_masked_out_mask": PadSpec(token_axes=(2,)),
}
"""The images' states, ragged in their number, and the masks that go with them."""


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


def stack_states(rows: Sequence[Mapping[str, Any]], length: int) -> LMInputs:
    """Stack the rows' image states, ragged in their number, with the masks that go with them; added ones are masked."""
    n_states = max(row["cross_attention_states"].shape[1] for row in rows)
    states, masks, text = [], [], []
    for row in rows:
        missing = n_states - row["cross_attention_states"].shape[1]
        states.append(mx.pad(row["cross_attention_states"], [(0, 0), (0, missing), (0, 0)]))
        mask = pad_edge(row["cross_attention_mask"].astype(mx.float32), length, axis=2)
        masks.append(mx.pad(mask, [(0, 0), (0, 0), (0, 0), (0, missing)], constant_values=MASKED))
        text.append(pad_edge(row["full_text_row_masked_out_mask"], length, axis=2))
    dtype = rows[0]["cross_attention_states"].dtype
    return {
        "cross_attention_states": mx.concatenate(states),
        # In the model's own type: the attention takes no mask that would promote it.
        "cross_attention_mask": mx.concatenate(masks).astype(dtype),
        "full_text_row_masked_out_mask": mx.concatenate(text),
    }


FAMILIES: Mapping[str, Family] = {
    "mllama": Family(
        is_proven=True,
        forward=Forward(
            finish_inputs=no_cross_attention,
            own_inputs=STATES_INPUTS,
            stack_inputs=stack_states,
            equal_prompts="some layers keep the keys of images, and not of tokens",
        ),
        upstream_differs="text alone goes through the cross-attention layers, which the published model skips",
    ),
}
