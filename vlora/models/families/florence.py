"""Florence-2. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping

from ...data.format.boxes import (
    FLORENCE_BOXES,
)
from .encoder_decoders import ENCODES, PROMPT_INPUTS, embed_prompt, fix_table, forward_encoder_decoder
from .family import Family, Format, Forward

FAMILIES: Mapping[str, Family] = {
    "florence2": Family(
        format=Format(is_encoder_decoder=True, boxes=FLORENCE_BOXES),
        forward=Forward(
            fix_weights=fix_table,
            embed=embed_prompt,
            own_inputs=PROMPT_INPUTS,
            forward=forward_encoder_decoder,
            rereads=ENCODES,
        ),
    ),
}
