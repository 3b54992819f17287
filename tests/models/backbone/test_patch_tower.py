"""Images of several sizes together have the features that mlx-vlm's tower gives each alone."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from tests.models.backbone.test_patch_bins import FAMILIES, MERGE
from tests.training import make_trainable
from vlora.models.backbone.patch_bins import (
    count_patches,
    plan_passes,
)
from vlora.models.backbone.patch_tower import TowerShape, in_bins, lay_out_pixels, lay_out_sizes, run_tower
from vlora.ops import cpu_exp


@pytest.mark.parametrize("is_plain", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_images_together_are_as_alone(
    family: str, is_plain: bool, checkpoint: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of several sizes and frames, in shared bins, have the features that mlx-vlm's tower gives each alone."""
    monkeypatch.setattr(cpu_exp, "has_slow_exponentials", lambda: is_plain)
    tower = make_trainable(checkpoint(family)).backbone.module.vision_tower
    width = tower.patch_embed.proj.weight[0].size
    for own_grids in (
        [(1, 4, 6), (1, 12, 10), (1, 2, 2), (1, 6, 4), (2, 4, 4)],
        [(1, 4, 4)] * 3,
        [(1, 8, 8), (1, 8, 8)],
        [(1, 20, 14)],
    ):
        pixels = [
            np.random.default_rng(number).standard_normal((count_patches(grid), width)).astype(np.float32)
            for number, grid in enumerate(own_grids)
        ]
        for found in plan_passes(own_grids, MERGE**2):
            members = [own_grids[member] for member in found.members]
            shape, inputs = lay_out_sizes(tower, found, members)
            inputs["pixels"] = lay_out_pixels(found, [pixels[member] for member in found.members])

            def run(inputs: Any, shape: TowerShape = shape) -> list[mx.array]:
                with in_bins(tower, shape, inputs):
                    return run_tower(tower, shape, inputs)

            outputs = mx.compile(run)(inputs)
            for start, member in zip(found.starts, found.members, strict=True):
                span = slice(start // MERGE**2, (start + count_patches(own_grids[member])) // MERGE**2)
                alone = tower(mx.array(pixels[member]), mx.array([own_grids[member]]))
                expected = [alone[0], *alone[1]] if isinstance(alone, tuple) else [alone]
                for output, own in zip(outputs, expected, strict=False):
                    np.testing.assert_allclose(output[span], own, rtol=1e-4, atol=1e-5)
