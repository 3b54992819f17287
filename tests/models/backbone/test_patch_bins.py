"""Images of any sizes go through a tower together, in few shapes, and come out as they do alone."""

import itertools
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training import make_trainable
from vlora.models.backbone.patch_bins import (
    COUNTS,
    MOST_SCORES,
    SMALL_BIN,
    bin_length,
    coordinates,
    corners,
    count_patches,
    lay_out_segments,
    plan_passes,
    windows,
)
from vlora.models.backbone.patch_tower import place

MERGE = 2
grids = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)).map(
    lambda grid: (grid[0], MERGE * grid[1], MERGE * grid[2])
)
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5")


@given(st.lists(grids, min_size=1, max_size=20))
def test_every_image_has_its_place(given_grids: list[tuple[int, int, int]]) -> None:
    """Each image is in one pass, whole, within one bin, over nobody else's patches."""
    passes = plan_passes(given_grids, MERGE**2)

    assert sorted(itertools.chain(*(found.members for found in passes))) == list(range(len(given_grids)))
    for found in passes:
        own = [given_grids[member] for member in found.members]
        taken = np.zeros(found.n_patches, dtype=np.int64)
        for start, grid in zip(found.starts, own, strict=True):
            taken[start : start + count_patches(grid)] += 1
            assert start // found.length == (start + count_patches(grid) - 1) // found.length
            assert start % MERGE**2 == 0
        segments = lay_out_segments(found, own)
        assert taken.max() == 1
        assert (segments.reshape(-1) > 0).tolist() == taken.astype(bool).tolist()
        assert segments.max() == sum(frames for frames, _, _ in own)
        assert found.n_bins in COUNTS
        assert found.length % MERGE**2 == 0
        assert found.is_full or found.n_bins == 1 or found.n_bins * found.length**2 <= MOST_SCORES


@given(st.integers(1, 2**15).map(lambda tokens: tokens * MERGE**2))
def test_bins_have_few_lengths(n_patches: int) -> None:
    """A bin is at most a quarter longer than what it was made for."""
    length = bin_length(n_patches, MERGE**2)

    assert n_patches <= length <= max(SMALL_BIN, 1.25 * n_patches)


def test_many_sizes_make_few_shapes() -> None:
    """Batches of images of a thousand sizes are a few dozen shapes of bins."""
    rng = np.random.default_rng(0)
    shapes = {
        (found.n_bins, found.length, found.is_full)
        for _ in range(200)
        for found in plan_passes([(1, 2 * int(h), 2 * int(w)) for h, w in rng.integers(7, 33, (16, 2))], MERGE**2)
    }
    alone = {
        (found.n_bins, found.length, found.is_full)
        for h, w in rng.integers(7, 33, (2000, 2))
        for found in plan_passes([(1, 2 * int(h), 2 * int(w))], MERGE**2)
    }

    assert len(shapes) <= 24
    assert len(alone) <= 40


def test_images_of_one_size_are_not_padded() -> None:
    """Nothing has to be kept apart where every bin is one image."""
    (found,) = plan_passes([(1, 28, 36)] * 4, MERGE**2)

    assert (found.length, found.n_bins, found.is_full) == (28 * 36, 4, True)


def test_a_mask_stays_within_its_bound() -> None:
    """Large images go through in several passes."""
    passes = plan_passes([(1, 60, 62)] * 7 + [(1, 62, 62)], MERGE**2)

    assert len(passes) > 1
    assert all(found.n_bins * found.length**2 <= MOST_SCORES for found in passes)


@pytest.mark.parametrize("grid", [(1, 4, 6), (1, 2, 2), (2, 6, 4)])
def test_coordinates_are_the_towers_own(grid: tuple[int, int, int], checkpoint: Callable[[str], Any]) -> None:
    """Angles, table entries and windows are those that mlx-vlm's towers find for one image."""
    for family in FAMILIES:
        tower = make_trainable(checkpoint(family)).backbone.module.vision_tower
        own = tower.rot_pos_emb(mx.array([grid]))
        frequencies = tower.rotary_pos_emb(mx.array(64) if "2" in family else 64)
        rows, columns = (frequencies[mx.array(places)] for places in coordinates(grid, MERGE))
        np.testing.assert_allclose(mx.concatenate([rows, columns], axis=-1), own, rtol=1e-6)
        if hasattr(tower, "pos_embed"):
            entries, shares = corners(grid, MERGE, tower.num_grid_per_side)
            found = (tower.pos_embed(mx.array(entries)) * mx.array(shares)[..., None]).sum(axis=0)
            np.testing.assert_allclose(found, tower.fast_pos_embed_interpolate(mx.array([grid])), rtol=1e-5, atol=1e-6)
        if hasattr(tower, "get_window_index"):
            side = tower.window_size // MERGE // tower.patch_size
            order, window = windows(grid, MERGE, side)
            index, lengths = tower.get_window_index(mx.array([grid]))
            counts = np.diff(np.array(lengths))
            assert order.tolist() == index.tolist()
            assert (np.unique(window, return_counts=True)[1] * MERGE**2).tolist() == counts[counts > 0].tolist()


def test_rows_are_placed_where_their_patches_lie() -> None:
    """Zeros between images."""
    (found,) = plan_passes([(1, 2, 4), (1, 2, 2)], MERGE**2)
    parts = [mx.full((count // 4, 3), number + 1.0) for number, count in enumerate((8, 4))]

    placed = place(found, parts, 4)

    assert placed.shape == (found.n_patches // 4, 3)
    for start, part in zip(found.starts, parts, strict=True):
        assert mx.array_equal(placed[start // 4 : start // 4 + part.shape[0]], part)
    assert float(placed.sum()) == 3 * (2 * 1 + 1 * 2)
