"""Towers of patches and grids read an image as they were trained to; tests/golden compares whole families."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx_vlm
import numpy as np
import pytest
from mlx import nn

from vlora.models.families.glm import match_reference_glm_tower

GRIDS = ((1, 4, 6), (1, 6, 4), (1, 4, 4), (1, 4, 6), (1, 2, 8))


@pytest.fixture(scope="module")
def glm(checkpoint: Callable[[str], Path]) -> nn.Module:
    """Load GLM-4.1V's tiny model once."""
    return mlx_vlm.utils.load_model(checkpoint("glm4v"))


def patches(seed: int, *grids: tuple[int, int, int]) -> mx.array:
    count = sum(frames * rows * columns for frames, rows, columns in grids)
    return mx.array(np.random.default_rng(seed).standard_normal((count, 3 * 2 * 8 * 8)).astype(np.float32))


def test_glm_reads_images_one_by_one(glm: nn.Module) -> None:
    """Of five images, each gets the features that it gets alone; mlx-vlm's own tower mixes all but the first two."""
    pixels = [patches(seed, grid) for seed, grid in enumerate(GRIDS)]
    together = mx.concatenate(pixels)
    with match_reference_glm_tower(glm):
        alone = mx.concatenate(
            [glm.vision_tower(part, mx.array([grid])) for part, grid in zip(pixels, GRIDS, strict=True)]
        )
        found = glm.vision_tower(together, mx.array(GRIDS))
    np.testing.assert_allclose(np.array(found), np.array(alone), atol=1e-5)
    mixed = glm.vision_tower(together, mx.array(GRIDS))
    separate = mx.concatenate([glm.vision_tower(part, mx.array([g])) for part, g in zip(pixels, GRIDS, strict=True)])
    assert float(mx.abs(mixed - separate)[12:].max()) > 1e-3


def test_glm_positions_of_the_trained_grid(glm: nn.Module) -> None:
    """An image as large as the learned square of positions gets exactly these, in the order of its patches."""
    table = glm.vision_tower.embeddings.position_embedding.weight
    side = round(table.shape[0] ** 0.5)
    rows, columns = (mx.array(axis.reshape(-1)) for axis in np.indices((side, side)))
    order = mx.array(np.random.default_rng(0).permutation(side * side))
    grid = mx.array([[1, side, side]])
    nothing = mx.zeros_like(table)
    with match_reference_glm_tower(glm):
        added = glm.vision_tower.embeddings(nothing, [side * side], grid, rows[order], columns[order])
    np.testing.assert_allclose(np.array(added), np.array(table[order]), atol=1e-6)


def test_glm_positions_keep_their_edges(glm: nn.Module) -> None:
    """Equal positions stay equal whatever the image's size: beyond the border they go on."""
    embeddings = glm.vision_tower.embeddings
    table = embeddings.position_embedding.weight
    rows, columns = (mx.array(axis.reshape(-1)) for axis in np.indices((6, 10)))
    try:
        embeddings.position_embedding.weight = mx.ones_like(table)
        with match_reference_glm_tower(glm):
            added = embeddings(mx.zeros((60, table.shape[1])), [60], mx.array([[1, 6, 10]]), rows, columns)
    finally:
        embeddings.position_embedding.weight = table
    np.testing.assert_allclose(np.array(added), 1, atol=1e-6)


def test_glm_tower_is_left_as_it_was(glm: nn.Module) -> None:
    """The correction is gone afterwards, epsilons included."""
    before = type(glm.vision_tower), type(glm.vision_tower.embeddings), glm.vision_tower.blocks[0].norm1.eps
    with match_reference_glm_tower(glm):
        assert glm.vision_tower.blocks[0].norm1.eps == glm.config.vision_config.rms_norm_eps != before[2]
    assert (type(glm.vision_tower), type(glm.vision_tower.embeddings), glm.vision_tower.blocks[0].norm1.eps) == before
