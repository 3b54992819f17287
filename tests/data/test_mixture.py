"""Mixtures: proportions, each row of a source once per its own epoch, orders that seed and epoch fix."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora.data.epoch_order import draw_order
from vlora.data.mixture import Mixture, count_by_source

seeds = st.integers(0, 2**40)
shuffles = st.booleans()


@st.composite
def mixtures(draw: st.DrawFn) -> Mixture:
    """Draw mixtures with weights."""
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))
    weights = [draw(st.floats(0.01, 100)) for _ in sizes]
    return Mixture(tuple(sizes), tuple(weights))


def sources_of(mixture: Mixture, rows: np.ndarray) -> np.ndarray:
    """Give the source of each row."""
    return np.searchsorted(np.cumsum(mixture.sizes), rows, side="right")


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), seeds, st.integers(0, 5), shuffles)
def test_without_weights(sizes: list[int], seed: int, epoch: int, shuffle: bool) -> None:
    """Each row comes once per epoch, in the order that one data set of these rows would have."""
    order = Mixture(tuple(sizes)).order(seed=seed, shuffle=shuffle)(epoch)

    assert sorted(order.tolist()) == list(range(sum(sizes)))
    assert order.tolist() == draw_order(sum(sizes), seed=seed, epoch=epoch, shuffle=shuffle).tolist()


@given(mixtures(), seeds, st.integers(0, 3), shuffles)
def test_proportions(mixture: Mixture, seed: int, epoch: int, shuffle: bool) -> None:
    """An epoch has each source's share to the nearest row, and so have its first rows but for a bound."""
    order = mixture.order(seed=seed, shuffle=shuffle)(epoch)
    found = sources_of(mixture, order)

    assert len(order) == mixture.n_rows == sum(mixture.quotas)
    for source, (share, quota) in enumerate(zip(mixture.shares, mixture.quotas, strict=True)):
        assert abs(quota - share * mixture.n_rows) < 1
        so_far, n = np.cumsum(found == source), np.arange(1, len(order) + 1)
        real = quota / mixture.n_rows
        assert so_far[-1] == quota
        assert np.all(np.abs(so_far - real * n) < 1 + real * len(mixture.sizes) + 1e-6)


@given(mixtures(), seeds, shuffles)
def test_epochs_of_sources(mixture: Mixture, seed: int, shuffle: bool) -> None:
    """A source's rows all come before one of them comes again, across the mixture's epochs; a new order each time."""
    order = mixture.order(seed=seed, shuffle=shuffle)
    rows = np.concatenate([order(epoch) for epoch in range(4)])
    found, first = sources_of(mixture, rows), 0

    for source, size in enumerate(mixture.sizes):
        own = rows[found == source].tolist()
        for epoch in (own[start : start + size] for start in range(0, len(own), size)):
            assert len(set(epoch)) == len(epoch)
            assert shuffle or epoch == list(range(first, first + len(epoch)))
        first += size


@given(mixtures(), seeds, st.integers(0, 3))
def test_seed_and_epoch_fix_the_order(mixture: Mixture, seed: int, epoch: int) -> None:
    """Epochs may be asked for in any order, and again."""
    order = mixture.order(seed=seed, shuffle=True)
    later = order(epoch + 1).tolist()

    assert order(epoch).tolist() == mixture.order(seed=seed, shuffle=True)(epoch).tolist()
    assert order(epoch + 1).tolist() == later


def test_seeds_and_epochs_differ() -> None:
    """And a source's orders differ from one of its epochs to the next."""
    mixture = Mixture((50, 10), (1.0, 1.0))
    orders = [mixture.order(seed=seed, shuffle=True)(epoch).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    small = [row for row in orders[0] if row >= 50]

    assert len({tuple(order) for order in orders}) == 3
    assert mixture.quotas == (30, 30)
    assert len({tuple(small[start : start + 10]) for start in (0, 10, 20)}) == 3


@pytest.mark.parametrize(
    ("weights", "quotas"),
    [((3, 1), (75, 25)), ((0.9, 0.1), (90, 10)), ((1, 1e-9), (100, 0)), (None, (80, 20)), ((2, 1), (67, 33))],
)
def test_quotas(weights: tuple[float, ...] | None, quotas: tuple[int, ...]) -> None:
    """Weights are relative; an epoch has as many rows as all sources."""
    assert Mixture((80, 20), weights).quotas == quotas


def test_rows_are_counted_by_source() -> None:
    """By the number that they have among the rows of all sources."""
    assert count_by_source((3, 2, 4), [0, 2, 3, 8, 8, 5]) == [2, 1, 3]
    assert count_by_source((3, 2, 4), [0, 2, 3, 8, 8, 5], [1, 2, 3, 4, 5, 6]) == [3, 3, 15]
    assert count_by_source((3, 2), []) == [0, 0]
