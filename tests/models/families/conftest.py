"""Models of families that cut images into tiles, loaded once a file."""

from collections.abc import Callable
from pathlib import Path

import mlx.nn as nn
import mlx_vlm
import pytest

PINPOINTS = ((32, 64), (64, 32), (64, 64), (96, 32), (32, 96))


@pytest.fixture(scope="module")
def model(checkpoint: Callable[[str], Path]) -> Callable[[str], nn.Module]:
    """Load a family's model once, with what mlx-vlm drops of its configuration."""
    loaded: dict[str, nn.Module] = {}

    def load(family: str) -> nn.Module:
        if family not in loaded:
            loaded[family] = mlx_vlm.utils.load_model(checkpoint(family))
            if family == "llava_next":
                loaded[family].config.image_grid_pinpoints = PINPOINTS
        return loaded[family]

    return load
