"""Baidu's families. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..forward.calls import call_language_model
from ..forward.corrections import sliced_splits
from ..forward.lm_inputs import LMInputs, PadSpec
from .family import Family, Forward, Parts


def finish_ernie(module: nn.Module, tokens: mx.array, inputs: dict[str, Any], fields: LMInputs) -> LMInputs:
    """Add positions and token types; ERNIE's forward would read values of the image grid back to find them."""
    positions, _ = module.language_model.get_rope_index(tokens, inputs.get("image_grid_thw"), None, None)
    token_types = (tokens == module.config.image_token_id).astype(mx.int32)
    return {**fields, "position_ids": mx.moveaxis(positions, -1, 0), "token_type_ids": token_types}


def forward_ernie(module: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Run ERNIE's language model, whose positions are [B, T, 3]."""
    return call_language_model(module, tokens, {**fields, "position_ids": mx.moveaxis(fields["position_ids"], 0, -1)})


FAMILIES: Mapping[str, Family] = {
    # The type of patches is that of `patch_embed.proj.weight` (ernie4_5_moe_vl/ernie4_5_moe_vl.py:176).
    "ernie4_5_moe_vl": Family(
        parts=Parts(no_adapter=("patch_embed",)),
        forward=Forward(
            packs=True, finish_inputs=finish_ernie, forward=forward_ernie, own_inputs={"token_type_ids": PadSpec()}
        ),
        upstream_differs="experts are told apart by token types in the forward only (ernie4_5_moe_vl.py:282)",
    ),
    "paddleocr_vl": Family(forward=Forward(packs=True, train_overrides=sliced_splits)),
}
