"""Mixtures: in which order the rows of several sources are learned. Pure: (seed, epoch, position) fixes each row.

Without weights an epoch of a mixture has each row of all sources once.

With weights an epoch has as many rows as all sources have together, and each source its share of them, to the nearest
row. Within a source no row comes again before all of its rows were drawn; a source that ends begins anew, in a new
order. One whose share is less than its rows goes on in the next epoch where it has stopped. So a source has epochs of
its own, longer or shorter than those of the mixture.
"""

from collections.abc import Sequence

import attrs
import numpy as np

from .epoch_order import EpochOrder, Indices, draw_order

_TIMES, _ROWS, _STREAM = 1, 2, 3
"""Keep the draws of a mixture apart from others of the same seed."""


@attrs.frozen
class Mixture:
    """Several sources whose rows are numbered one source after the other.

    Attributes:
        sizes: Rows of each source, at least 1.
        weights: The sources' shares of the rows of an epoch, relative to one another; None for each row once.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...] | None = None

    @property
    def n_rows(self) -> int:
        """Rows of an epoch: as many as all sources have together."""
        return sum(self.sizes)

    @property
    def shares(self) -> tuple[float, ...]:
        """Each source's wanted share of the rows that are learned; all shares sum up to 1."""
        parts = self.weights or self.sizes
        return tuple(part / sum(parts) for part in parts)

    @property
    def quotas(self) -> tuple[int, ...]:
        """Rows that an epoch has of each source: its share to the nearest row, `n_rows` of all together."""
        if self.weights is None:
            return self.sizes
        return apportion(self.shares, self.n_rows)

    def order(self, *, seed: int, shuffle: bool) -> EpochOrder:
        """Make what gives the order of each epoch.

        Rows of a source are spread over the epoch: among any first n rows of it, their number differs from the source's
        share of n by less than 1 + share * number of sources.

        Args:
            seed: Fixes all orders.
            shuffle: Draw the order in which the sources take turns, and that of each source's rows; otherwise rows keep
                their own order, and sources take turns evenly.
        """

        def order(epoch: int) -> Indices:
            if self.weights is None:
                return draw_order(self.n_rows, seed=seed, epoch=epoch, shuffle=shuffle)
            return self._interleave(seed, epoch, shuffle=shuffle)

        return order

    def _interleave(self, seed: int, epoch: int, *, shuffle: bool) -> Indices:
        rows, first = [], 0
        for source, (size, quota) in enumerate(zip(self.sizes, self.quotas, strict=True)):
            rows.append(first + self._draw(source, epoch * quota, quota, seed, shuffle=shuffle))
            first += size
        return np.concatenate(rows)[spread(self.quotas, seed=seed, epoch=epoch, shuffle=shuffle)]

    def _draw(self, source: int, n_before: int, n_drawn: int, seed: int, *, shuffle: bool) -> Indices:
        """Give the rows of a source that are drawn after others, epoch after epoch of its own."""
        size, found, end = self.sizes[source], [np.empty(0, dtype=np.int64)], n_before + n_drawn
        for epoch in range(n_before // size, -(-end // size)):
            rng = np.random.default_rng((seed, epoch, _ROWS, source))
            own = rng.permutation(size) if shuffle else np.arange(size)
            found.append(own[max(0, n_before - epoch * size) : end - epoch * size])
        return np.concatenate(found)


def own_seed(seed: int, source: int) -> int:
    """Give a source whose rows are streamed a seed of its own."""
    return int(np.random.default_rng((seed, _STREAM, source)).integers(1 << 63))


def apportion(shares: Sequence[float], n_rows: int) -> tuple[int, ...]:
    """Divide a number of rows among sources: each gets its share to the nearest row, and all together `n_rows`."""
    exact = [share * n_rows for share in shares]
    quotas = [int(number) for number in exact]
    by_remainder = sorted(range(len(exact)), key=lambda source: (quotas[source] - exact[source], source))
    for source in by_remainder[: n_rows - sum(quotas)]:
        quotas[source] += 1
    return tuple(quotas)


def spread(quotas: Sequence[int], *, seed: int, epoch: int, shuffle: bool) -> Indices:
    """Let sources take turns: i64[rows of all], numbers of rows that are counted one source after the other.

    Args:
        quotas: Rows of each source.
        seed: The run's seed.
        epoch: With the seed it fixes the turns.
        shuffle: Draw when each row comes within its part of the whole; otherwise sources take turns evenly.
    """
    times = []
    for source, quota in enumerate(quotas):
        # Each row has an equal part of the epoch, in which it comes at a random time.
        rng = np.random.default_rng((seed, epoch, _TIMES, source))
        within = rng.random(quota) if shuffle else np.full(quota, 0.5)
        times.append((np.arange(quota) + within) / max(1, quota))
    return np.argsort(np.concatenate(times), kind="stable")


def count_by_source(sizes: Sequence[int], indices: Sequence[int], counts: Sequence[int] | None = None) -> list[int]:
    """Count rows by their source.

    Args:
        sizes: Rows of each source.
        indices: Of rows that are numbered one source after the other.
        counts: What each of them counts; 1 without it.
    """
    found = np.searchsorted(np.cumsum(sizes), np.asarray(indices, dtype=np.int64), side="right")
    sums = np.zeros(len(sizes), dtype=np.int64)
    np.add.at(sums, found, np.int64(1) if counts is None else np.asarray(counts, dtype=np.int64))
    return [int(total) for total in sums]
