"""MiniMax. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping

from ..forward.corrections import undifferentiated_indices
from ..forward.metal_kernels import without_metal_kernels
from ..forward.overrides import chain
from .family import Family, Forward, Parts

INDEX = "token by token, its index keeps keys of its own (minimax_m3_vl/language.py:578)"
"""Why rows are read anew for each token of an answer."""

FAMILIES: Mapping[str, Family] = {
    "minimax_m3_vl": Family(
        parts=Parts(selectors=("index_q_proj", "index_k_proj", "index_q_norm", "index_k_norm")),
        forward=Forward(
            train_overrides=chain(undifferentiated_indices, without_metal_kernels),
            rereads=INDEX,
        ),
    ),
}
