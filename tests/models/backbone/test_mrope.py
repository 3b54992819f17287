"""M-RoPE positions: text counts on, images have their grid, what follows goes on from the largest."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training import make_trainable
from vlora.models.backbone.mrope import mrope_positions

MERGE = 2
GRIDS = st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 4))
ROWS = st.lists(st.integers(1, 5) | GRIDS, max_size=6)


@given(ROWS)
def test_positions_of_any_row(parts: list[int | tuple[int, int, int]]) -> None:
    """Each part begins behind the largest position before it; an image's tokens have their frame, row and column."""
    is_image = np.concatenate(
        [
            np.zeros(0, bool),
            *(np.full(part if isinstance(part, int) else np.prod(part), not isinstance(part, int)) for part in parts),
        ]
    )
    grids = [(part[0], part[1] * MERGE, part[2] * MERGE) for part in parts if not isinstance(part, int)]
    found, place, begin = mrope_positions(is_image, grids, MERGE), 0, 0

    for part in parts:
        shape = (part,) if isinstance(part, int) else part
        count = int(np.prod(shape))
        expected = [range(part)] * 3 if isinstance(part, int) else zip(*np.ndindex(*part), strict=True)
        np.testing.assert_array_equal(found[:, place : place + count] - begin, [list(axis) for axis in expected])
        place, begin = place + count, begin + max(shape)
    assert place == found.shape[1]


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_positions_are_the_models_own(family: str, checkpoint: Callable[[str], Path]) -> None:
    """For rows with one image and with two, they are those that mlx-vlm's language model finds."""
    subject = make_trainable(checkpoint(family))
    merge = subject.backbone.module.config.vision_config.spatial_merge_size
    shown = [example for example in subject.examples if "image_grid_thw" in example.inputs]
    assert len(shown) > 1
    for example in shown:
        grids = np.array(example.inputs["image_grid_thw"])
        own, _ = subject.backbone.language_model.get_rope_index(mx.array(example.tokens)[None], mx.array(grids))
        listed = [(int(frames), int(rows), int(columns)) for frames, rows, columns in grids]
        np.testing.assert_array_equal(mrope_positions(example.placeholders, listed, merge), np.array(own)[:, 0])
