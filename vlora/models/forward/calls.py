"""The two calls that every family of mlx-vlm answers: embed a row, run the language model."""

from contextlib import nullcontext
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ...types import Example
from .attention_masks import masks_within
from .lm_inputs import SEGMENTS, LMInputs
from .segments import take_apart

NOT_PASSED = ("attention_mask", "attention_mask_4d", "decoder_inputs_embeds", "rope_deltas")
"""Results of `get_input_embeddings` that causal language models must not get: masks of a single row that are not
causal, and positions of the next token."""


def embed_alone(module: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> LMInputs:
    """Embed one row as the model does when it generates.

    Args:
        module: The model.
        tokens: i32[1, T].
        inputs: The processor's other outputs, on the device.

    Returns:
        Everything that the model returns, and positions that some families only leave on the language model.
    """
    others = {name: value for name, value in inputs.items() if name != "pixel_values"}
    features = module.get_input_embeddings(tokens, inputs.get("pixel_values"), mask=mx.ones_like(tokens), **others)
    fields = {name: value for name, value in features.to_dict().items() if value is not None}
    held = getattr(module.language_model, "_position_ids", None)
    if held is not None and "position_ids" not in fields:
        fields["position_ids"] = held
    return fields


def leave_as_loaded(_: nn.Module) -> None:
    """Change nothing."""


def label_nothing(_: Example) -> LMInputs:
    """Add nothing; most language models do not care which tokens are answers."""
    return {}


def keep_inputs(_: nn.Module, __: mx.array, ___: dict[str, Any], fields: LMInputs) -> LMInputs:
    """Add nothing; most language models need no more than `embed_alone` finds."""
    return fields


def call_language_model(module: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Run the language model: ids as first argument, the rest by keyword, without a 2-D mask and without a cache.

    The masks that the model makes separate packed rows; a mask that is passed has to do so itself.
    """
    fields = dict(fields)
    segments, apart = fields.pop(SEGMENTS, None), take_apart(fields)
    with nullcontext() if segments is None else masks_within(module, segments, apart):
        output = module.language_model(tokens, **{"mask": None, "cache": None, **fields})
    logits: mx.array = output.logits
    return logits
