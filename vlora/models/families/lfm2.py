"""LFM2-VL. Its language model keeps states, and its tower asks its first layer for its weights' type."""

from collections.abc import Mapping

from .family import STATES, Family, Forward, Parts

FAMILIES: Mapping[str, Family] = {
    # The type of patches is that of `patch_embedding.weight` (lfm2_vl/vision.py:112).
    "lfm2_vl": Family(parts=Parts(no_adapter=("patch_embedding",)), forward=Forward(equal_prompts=STATES)),
}
