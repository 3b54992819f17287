"""Nemotron-Parse. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping

from .encoder_decoders import ENCODES, STATES_INPUTS, embed_states, fix_table, forward_decoder
from .family import Family, Format, Forward

FAMILIES: Mapping[str, Family] = {
    "nemotron_parse": Family(
        format=Format(is_encoder_decoder=True, is_prompted_decoder=True),
        forward=Forward(
            fix_weights=fix_table,
            embed=embed_states,
            own_inputs=STATES_INPUTS,
            forward=forward_decoder,
            rereads=ENCODES,
        ),
    ),
}
