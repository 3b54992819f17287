"""In which order the sources of a streamed mixture take turns. Pure: the seed and what was read before fix each turn.

Rows of streams are not counted, so that no epoch of the mixture can have each source's share. Rounds of a fixed number
of rows take its place: behind each of them every source has had its share of all rows so far, to the nearest row.

Without weights an epoch of the mixture has each row of every source once, as one of rows that are counted. Its sources
give a row each in every round, as long as they have one.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import attrs
import numpy as np

from .epoch_order import Indices
from .mixture import apportion, spread

ROUND = 1000
"""Rows of a round; more where a source has less than one of so many."""

MOST_OF_A_ROUND = 1_000_000
"""Rows of a round at most, since the turns of one are drawn together."""

_EVEN = 6
"""Keeps the draws of turns without weights apart from others of the same seed."""


class SourceProgress(Protocol):
    """How far a source has been read."""

    @property
    def epoch(self) -> int:
        """Its epochs that are over."""

    @property
    def position(self) -> int:
        """Rows of this epoch that were given."""

    @property
    def n_given(self) -> int:
        """Rows that were given in all epochs."""


class TurnTaking(Protocol):
    """Says which source is the next."""

    def follow(self, sources: Sequence[SourceProgress]) -> Iterator[int]:
        """Yield the source of each row, without end; each has given its row when the next one is asked for."""


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

    def follow(self, sources: Sequence[SourceProgress]) -> Iterator[int]:
        """Yield the source of each row, without end, behind those that the sources have given."""
        return self.take(sum(source.n_given for source in sources))


@attrs.frozen(kw_only=True)
class EvenTurns:
    """The turns of several sources without weights.

    A source that has ended waits for the others. With the last row of the last one the epoch of the mixture is over.

    Attributes:
        seed: The run's seed.
        shuffle: Draw the order in which the sources give a row each, in every round anew; otherwise they keep theirs.
    """

    seed: int
    shuffle: bool

    def follow(self, sources: Sequence[SourceProgress]) -> Iterator[int]:
        """Yield the source of each row, without end.

        Args:
            sources: How far they have been read, which is looked at when a turn is asked for.
        """
        while True:
            yield self.choose([(source.epoch, source.position) for source in sources])

    def choose(self, progress: Sequence[tuple[int, int]]) -> int:
        """Choose the next source.

        Args:
            progress: Of each source: its epochs that are over, and the rows of this one that it has given.
        """
        epoch = min(epoch for epoch, _ in progress)
        given = {source: n_rows for source, (own, n_rows) in enumerate(progress) if own == epoch}
        number = min(given.values())
        rng = np.random.default_rng((self.seed, epoch, _EVEN, number))
        order = rng.permutation(len(progress)).tolist() if self.shuffle else range(len(progress))
        return next(source for source in order if given.get(source) == number)


def take_turns(turns: TurnTaking | None, sources: Sequence[SourceProgress]) -> Iterator[int]:
    """Yield the source of each row, without end; a single one has all turns."""
    return itertools.repeat(0) if turns is None else turns.follow(sources)


def find_too_rare(weights: tuple[float, ...]) -> int | None:
    """Find a source whose share is less than one row of the longest round; None if there is none."""
    shares = [weight / sum(weights) for weight in weights]
    rarest = min(range(len(shares)), key=shares.__getitem__)
    return rarest if shares[rarest] * MOST_OF_A_ROUND < 1 else None
