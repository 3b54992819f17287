"""Rows divided into those to train on and those that are held out, to validate on."""

import attrs
import numpy as np

from ..errors import RecipeError
from .rows import FIRST_ROWS, RowDataset


def hold_out(train: RowDataset, share: float, seed: int) -> tuple[RowDataset, RowDataset | None]:
    """Divide rows into those to train on and those to validate on.

    Raises:
        RecipeError: None would be left to train on.
        SampleError: None would, and one of the first cannot be read.
    """
    if not share:
        return train, None
    order = np.random.default_rng(seed).permutation(len(train))
    n_held_out = max(1, round(len(train) * share))
    if n_held_out >= len(train):
        # What is wrong with a row is told first: without it there may be more, as where lines are not ended.
        for index in range(min(len(train), FIRST_ROWS)):
            train.read(index)
        msg = f"holding out {n_held_out} of {len(train)} rows leaves none to train on"
        raise RecipeError(msg, key="data.valid_fraction")
    indices = np.asarray(train.indices)
    held_out, kept = (indices[np.sort(places)].tolist() for places in (order[:n_held_out], order[n_held_out:]))
    return attrs.evolve(train, indices=kept), attrs.evolve(train, indices=held_out)
