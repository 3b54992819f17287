"""Muse. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping

from .family import Family, Forward

FAMILIES: Mapping[str, Family] = {
    "muse_glimmer": Family(forward=Forward(packs=True)),
    "muse_spark": Family(refused="its layers are Metal kernels without gradients"),
}
