"""A shuffle buffer whose order is a function of (seed, epoch, position) and of nothing else. Pure.

Which of the waiting rows is given next depends on how many rows were given before, not on what was drawn since the
process began. A buffer that is filled again with the same waiting rows therefore goes on exactly.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar

import attrs
import numpy as np
import numpy.typing as npt

Item = TypeVar("Item")

BLOCK = 1024
"""Positions whose numbers are drawn together."""


@attrs.define(eq=False, kw_only=True)
class ShuffleBuffer(Generic[Item]):
    """Rows of one epoch in an order that is drawn while they are read: each once.

    Attributes:
        source: The rows of the epoch that were not read yet, in their own order.
        size: Rows that wait at most; 1 keeps their own order.
        seed: The run's seed.
        epoch: Counts from 0.
        position: Rows of the epoch that were given.
        waiting: Rows that were read and not given.
        last: The row that was read last; None if none was.
    """

    source: Iterator[Item]
    size: int
    seed: int
    epoch: int
    position: int = 0
    waiting: list[Item] = attrs.field(factory=list)
    last: Item | None = None
    _block: int = attrs.field(default=-1, init=False)
    _numbers: npt.NDArray[np.float64] = attrs.field(factory=lambda: np.empty(0), init=False)

    def fill(self) -> bool:
        """Read rows until `size` of them wait or none is left; say whether any waits."""
        while len(self.waiting) < self.size:
            try:
                self.last = next(self.source)
            except StopIteration:
                break
            self.waiting.append(self.last)
        return bool(self.waiting)

    def take(self) -> Item:
        """Give a row; `fill` has said that there is one."""
        place = int(self._number() * len(self.waiting))
        self.waiting[place], self.waiting[-1] = self.waiting[-1], self.waiting[place]
        self.position += 1
        return self.waiting.pop()

    def _number(self) -> float:
        """Give the number in [0, 1) that belongs to this position."""
        block, place = divmod(self.position, BLOCK)
        if block != self._block:
            self._block = block
            self._numbers = np.random.default_rng((self.seed, self.epoch, block)).random(BLOCK)
        return float(self._numbers[place])
