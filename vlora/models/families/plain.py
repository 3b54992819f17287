"""Families without corrections; their rows can be packed."""

from collections.abc import Mapping

from .family import Family, Forward

FAMILIES: Mapping[str, Family] = {
    "dots_ocr": Family(forward=Forward(packs=True)),
    "locateanything": Family(forward=Forward(packs=True)),
    "mage_vl": Family(forward=Forward(packs=True)),
    "mimo_v2": Family(forward=Forward(packs=True)),
    "minicpmo": Family(forward=Forward(packs=True)),
    "step3p7": Family(forward=Forward(packs=True)),
    "youtu_vl": Family(forward=Forward(packs=True)),
}
