"""Rows of processors in the manner of Qwen-VL: flat patches of all images, and a grid for each."""

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from .tiny import Inputs, Row, noise, words

Grid = tuple[int, int, int]
GRIDS: Sequence[Sequence[Grid]] = (((1, 4, 4),), ((1, 4, 6), (1, 2, 4)), ())


def as_is(pixels: np.ndarray) -> np.ndarray:
    """Keep f[patches, values]."""
    return pixels


def grid_rows(
    generator: np.random.Generator,
    *,
    image: int,
    patch_dim: int,
    before: Sequence[int] = (),
    after: Sequence[int] = (),
    merge: int = 2,
    grids: Sequence[Sequence[Grid]] = GRIDS,
    lay_out: Callable[[np.ndarray], np.ndarray] = as_is,
) -> list[Row]:
    """Make a row for each sequence of grids.

    Args:
        generator: Draws words and pixels.
        image: The id that stands for a merged patch.
        patch_dim: Values of one patch.
        before: Ids written before an image.
        after: Ids written after it.
        merge: Patches to one feature, along one side.
        grids: Time, height and width in patches of each image of each row.
        lay_out: Brings f[patches, values] into the processor's layout.
    """
    rows = []
    for number, row_grids in enumerate(grids):
        tokens = words(generator, 2)
        inputs: Inputs = {}
        for grid in row_grids:
            tokens += [*before, *([image] * (prod(grid) // merge**2)), *after, *words(generator, 2)]
        if row_grids:
            inputs["pixel_values"] = lay_out(noise(generator, sum(map(prod, row_grids)), patch_dim))
            inputs["image_grid_thw"] = np.array(row_grids, dtype=np.int64)
        n_answer = 4 + number
        tokens += words(generator, 5 + 3 * number + n_answer)
        rows.append(Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=frozenset([image])))
    return rows
