"""In which order the rows of an epoch are learned: (seed, epoch) fixes it. Pure."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..arguments import expect_type

Indices = npt.NDArray[np.int64]

EpochOrder = Callable[[int], Indices]
"""Gives the order of an epoch, which counts from 0: i64[rows of an epoch], indices of rows."""


def draw_order(n_rows: int, *, seed: int, epoch: int, shuffle: bool) -> Indices:
    """Draw the order of one epoch of rows that are no mixture: i64[n_rows], each row once."""
    return np.random.default_rng((seed, epoch)).permutation(n_rows) if shuffle else np.arange(n_rows)


def plain_order(n_rows: int, *, seed: int, shuffle: bool) -> EpochOrder:
    """Make what gives the order of each epoch of rows that are no mixture.

    Raises:
        TypeError: The rows were given, and not their number.
    """
    expect_type(n_rows, (int, np.integer), "n_rows", "give the number of rows, len(data.train)")
    return lambda epoch: draw_order(n_rows, seed=seed, epoch=epoch, shuffle=shuffle)
