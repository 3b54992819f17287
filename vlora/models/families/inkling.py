"""Inkling. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping

from ..forward.corrections import forget_attributes
from ..forward.metal_kernels import without_metal_kernels
from ..forward.overrides import chain
from .family import STATES, Family, Forward, Parts

_ROUTING_SCALE = forget_attributes("_wscale")


FAMILIES: Mapping[str, Family] = {
    "inkling": Family(
        parts=Parts(embedding_parts=("embed_norm",)),
        forward=Forward(
            embed_overrides=_ROUTING_SCALE,
            train_overrides=chain(_ROUTING_SCALE, without_metal_kernels),
            equal_prompts=STATES,
        ),
    ),
}
