"""HunYuan. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..forward.calls import call_language_model
from ..forward.lm_inputs import LMInputs
from .family import Family, Forward


def finish_hunyuan(module: nn.Module, tokens: mx.array, _: dict[str, Any], fields: LMInputs) -> LMInputs:
    """Add positions along all axes, i32[R, 1, T]; the language model would read values of the ids back to find them."""
    n_axes = len(module.config.text_config.rope_scaling["xdrope_section"])
    count = mx.broadcast_to(mx.arange(tokens.shape[1]), (1, n_axes, tokens.shape[1]))
    return {**fields, "position_ids": mx.swapaxes(fields.get("position_ids", count), 0, 1)}


def forward_hunyuan(module: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Run HunYuan's language model, whose positions are [B, R, T] and stay on it (hunyuan_vl/language.py:461)."""
    language_model = module.language_model
    language_model._position_ids = None  # noqa: SLF001
    try:
        return call_language_model(
            module, tokens, {**fields, "position_ids": mx.swapaxes(fields["position_ids"], 0, 1)}
        )
    finally:
        language_model._position_ids = None  # noqa: SLF001


INTERLEAVED = "token by token, positions are of another kind (hunyuan_vl/language.py:212)"
"""Why rows are read anew for each token of an answer."""

FAMILIES: Mapping[str, Family] = {
    "hunyuan_vl": Family(
        forward=Forward(
            packs=True,
            finish_inputs=finish_hunyuan,
            forward=forward_hunyuan,
            rereads=INTERLEAVED,
        )
    ),
}
