"""Tiny random models of all families of mlx-vlm that read images and write text."""

from collections.abc import Mapping

from . import (
    deepseek_v3,
    expanding,
    fastvlm,
    florence2,
    gemmas,
    granite,
    grid_readers,
    hybrids,
    listed_patches,
    llama4,
    minicpm,
    mixtures,
    molmo,
    moondream,
    multi_modality,
    nemotron_parse,
    ocr,
    phi3_v,
    published,
    qwen3_omni_moe,
    sparse,
    tiles,
)
from .tiny import TinyFamily, build, examples

__all__ = ["FAMILIES", "TinyFamily", "build", "examples"]

FAMILIES: Mapping[str, TinyFamily] = {
    **deepseek_v3.FAMILIES,
    **expanding.FAMILIES,
    **fastvlm.FAMILIES,
    **florence2.FAMILIES,
    **gemmas.FAMILIES,
    **granite.FAMILIES,
    **grid_readers.FAMILIES,
    **hybrids.FAMILIES,
    **listed_patches.FAMILIES,
    **llama4.FAMILIES,
    **minicpm.FAMILIES,
    **mixtures.FAMILIES,
    **molmo.FAMILIES,
    **moondream.FAMILIES,
    **multi_modality.FAMILIES,
    **nemotron_parse.FAMILIES,
    **ocr.FAMILIES,
    **phi3_v.FAMILIES,
    **published.FAMILIES,
    **qwen3_omni_moe.FAMILIES,
    **sparse.FAMILIES,
    **tiles.FAMILIES,
}
