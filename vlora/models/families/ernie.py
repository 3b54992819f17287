"""Baidu's families. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..forward.calls import call_language_model
from ..forward.corrections import sliced_splits
from ..forward.lm_inputs import LMInputs, PadSpec
from .family import Family, Forward, Parts

IMAGE_IDS = ("image_token_id", "image_start_token_id", "image_end_token_id")
"""What a configuration calls the tokens that the experts for images read."""


def finish_ernie(module: nn.Module, tokens: mx.array, inputs: dict[str, Any], fields: LMInputs) -> LMInputs:
    """Add positions and token types; ERNIE's forward would read values of the image grid back to find them.

    The experts for images read the tokens before and behind an image too; mlx-vlm gives those to the experts for text
    (ernie4_5_moe_vl.py:265).
    """
    positions, _ = module.language_model.get_rope_index(tokens, inputs.get("image_grid_thw"), None, None)
    is_image = [tokens == getattr(module.config, name) for name in IMAGE_IDS]
    token_types = mx.any(mx.stack(is_image), axis=0).astype(mx.int32)
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
        upstream_differs=(
            "experts are told apart by token types in the forward only, and tokens before and behind an image are of "
            "text there (ernie4_5_moe_vl.py:282, :265)"
        ),
    ),
    "paddleocr_vl": Family(forward=Forward(packs=True, train_overrides=sliced_splits)),
}
