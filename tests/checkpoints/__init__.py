"""Tiny but real checkpoints, one per model family, written without a network.

`build_checkpoint` writes a folder that `mlx_vlm.load` opens like a published one. To add a family, describe it in
one of the modules here and list that module in `FAMILIES`. `LARGE_FAMILIES` are not tiny: their towers have one size.
"""

from collections.abc import Mapping
from pathlib import Path

from . import classics, gemmas, grids, tiled
from .gemmas import LARGE_FAMILIES
from .layout import GPT4_WORDS, Family, write_checkpoint

__all__ = ["FAMILIES", "GPT4_WORDS", "LARGE_FAMILIES", "build_checkpoint"]

FAMILIES: Mapping[str, Family] = {**classics.FAMILIES, **gemmas.FAMILIES, **grids.FAMILIES, **tiled.FAMILIES}


def build_checkpoint(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a complete tiny checkpoint of one family; the same call writes the same bytes.

    Args:
        family: A key of `FAMILIES` or `LARGE_FAMILIES`: the model_type, or a variant of one.
        folder: Where to write; made if missing. Files of the same names are replaced.
        seed: Decides the weights (float32); tokenizer and configuration do not depend on it.

    Returns:
        `folder`, ready for `mlx_vlm.load(str(folder))`.

    Raises:
        KeyError: No such family.
    """
    return write_checkpoint({**FAMILIES, **LARGE_FAMILIES}[family], folder, seed=seed)
