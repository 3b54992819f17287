"""How long rows to train on are, found ahead and once a row."""

from collections.abc import Callable

import numpy as np

from ..errors import SampleError
from ..types import Sample
from .loader import DataLoader
from .sampler import LengthFn


def measure_drawn(loader: DataLoader, estimate: Callable[[Sample], int]) -> LengthFn:
    """Make what says how long rows of streams are, each when it was drawn; see `measure_rows`."""

    def measure(index: int) -> int:
        try:
            return estimate(loader.train[index])
        except SampleError:
            return 0

    return lambda indices: loader.workers.map(measure, indices, loader.data.prefetch * loader.batch_size)


def measure_rows(loader: DataLoader, estimate: Callable[[Sample], int]) -> LengthFn:
    """Make what says how long rows to train on are.

    Args:
        loader: Has the rows, and the threads that look at them.
        estimate: Says how many tokens a sample has; called once a row, whatever the number of epochs.
    """
    known = np.full(len(loader.train), -1, dtype=np.int32)

    def measure(index: int) -> int:
        if known[index] < 0:
            try:
                known[index] = estimate(loader.train[index])
            except SampleError:
                # No conversation in it: encoding says so in its turn.
                known[index] = 0
        return int(known[index])

    return lambda indices: loader.workers.map(measure, indices, loader.data.prefetch * loader.batch_size)
