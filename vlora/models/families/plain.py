"""Families without corrections; their rows can be packed."""

from collections.abc import Mapping

from .family import Family, Forward, Parts

FAMILIES: Mapping[str, Family] = {
    "dots_ocr": Family(forward=Forward(packs=True)),
    "locateanything": Family(forward=Forward(packs=True)),
    "mage_vl": Family(forward=Forward(packs=True)),
    # The type of patches is that of `patch_embed.proj.weight` (mimo_v2/mimo_v2.py:30).
    "mimo_v2": Family(parts=Parts(no_adapter=("patch_embed",)), forward=Forward(packs=True)),
    "minicpmo": Family(forward=Forward(packs=True)),
    # A layer takes its own theta (step3p7/language.py:162).
    "step3p7": Family(forward=Forward(packs=True, has_thetas=True)),
    # The type of patches is that of `patch_embedding.weight` (youtu_vl/youtu_vl.py:32).
    "youtu_vl": Family(parts=Parts(no_adapter=("patch_embedding",)), forward=Forward(packs=True)),
}
