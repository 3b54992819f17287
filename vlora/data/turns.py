"""In which order the sources of a streamed mixture take turns. Pure: (seed, number of turns before) fixes each turn.

Rows of streams are not counted, so that no epoch of the mixture can have each source's share. Rounds of a fixed number
of rows take its place: behind each of them every source has had its share of all rows so far, to the nearest row.
"""

import itertools
import math
from collections.abc import Iterator

import attrs
import numpy as np

from .epoch_order import Indices
from .mixture import apportion, spread

ROUND = 1000
"""Rows of a round; more where a source has less than one of so many."""

MOST_OF_A_ROUND = 1_000_000
"""Rows of a round at most, since the turns of one are drawn together."""


@attrs.frozen(kw_only=True)
class Turns:
    """The turns of several sources.

    Attributes:
        weights: The sources' shares of the rows, relative to one another, each above 0.
        seed: The run's seed.
        shuffle: Draw the turns; otherwise the sources take turns evenly.
    """

    weights: tuple[float, ...]
    seed: int
    shuffle: bool

    @property
    def shares(self) -> tuple[float, ...]:
        """Each source's wanted share of the rows; all shares sum up to 1."""
        return tuple(weight / sum(self.weights) for weight in self.weights)

    @property
    def n_round(self) -> int:
        """Rows of a round: so many that each source has one of them at least."""
        return min(MOST_OF_A_ROUND, max(ROUND, math.ceil(1 / min(self.shares))))

    def draw_round(self, number: int) -> Indices:
        """Give the sources of a round's rows, in order: i64[n_round].

        Among any first n rows of the round, a source's number differs from its share of n by less than
        1 + share * number of sources, besides what is rounded in the round.

        Args:
            number: Which round, from 0.
        """
        before, after = (apportion(self.shares, rounds * self.n_round) for rounds in (number, number + 1))
        quotas = [last - first for first, last in zip(before, after, strict=True)]
        sources = np.repeat(np.arange(len(quotas)), quotas)
        return sources[spread(quotas, seed=self.seed, epoch=number, shuffle=self.shuffle)]

    def take(self, n_before: int = 0) -> Iterator[int]:
        """Yield the source of each row, without end.

        Args:
            n_before: Rows that were taken before.
        """
        first, place = divmod(n_before, self.n_round)
        for number in itertools.count(first):
            yield from self.draw_round(number)[place:].tolist()
            place = 0


def find_too_rare(weights: tuple[float, ...]) -> int | None:
    """Find a source whose share is less than one row of the longest round; None if there is none."""
    shares = [weight / sum(weights) for weight in weights]
    rarest = min(range(len(shares)), key=shares.__getitem__)
    return rarest if shares[rarest] * MOST_OF_A_ROUND < 1 else None
