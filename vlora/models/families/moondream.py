"""Moondream. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..forward.lm_inputs import LMInputs
from .family import Family, Forward


def finish_moondream(_: nn.Module, __: mx.array, ___: dict[str, Any], fields: LMInputs) -> LMInputs:
    """Pass the mask with bidirectional attention within the image.

    Moondream 3's is of float32 (moondream3/moondream3.py:98), which attention in bfloat16 does not take.
    """
    if "attention_mask_4d" not in fields:
        return fields
    mask = fields["attention_mask_4d"]
    return {**fields, "mask": mask if mask.dtype == mx.bool_ else mask.astype(fields["inputs_embeds"].dtype)}


FAMILIES: Mapping[str, Family] = {
    "moondream2": Family(
        forward=Forward(packs=True, finish_inputs=finish_moondream),
        upstream_differs="the image sees itself whole in the forward only (moondream2/moondream2.py:36)",
    ),
    "moondream3": Family(
        forward=Forward(finish_inputs=finish_moondream),
        upstream_differs="the image sees itself whole in the forward only (moondream3/moondream3.py:36)",
    ),
}
