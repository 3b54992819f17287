"""Muse. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping

from .family import Family, Forward, Parts

FAMILIES: Mapping[str, Family] = {
    # The type of patches is that of `patch_embedding.weight` (muse_glimmer/muse_glimmer.py:61).
    "muse_glimmer": Family(parts=Parts(no_adapter=("patch_embedding",)), forward=Forward(packs=True)),
    "muse_spark": Family(refused="its layers are Metal kernels without gradients"),
}
