"""Turns of streamed sources: shares to the nearest row behind each round, evenly spread, going on at any row."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlora.data.turns import MOST_OF_A_ROUND, ROUND, EvenTurns, Turns, find_too_rare, take_turns

weights = st.lists(st.floats(0.01, 100), min_size=1, max_size=5).map(tuple)
seeds = st.integers(0, 2**40)


@settings(max_examples=40, deadline=None)
@given(weights, seeds, st.booleans(), st.integers(1, 4))
def test_shares_are_kept(weights: tuple[float, ...], seed: int, shuffle: bool, n_rounds: int) -> None:
    """Behind each round to the nearest row of all so far; within one, of any first rows, but for a bound."""
    turns = Turns(weights=weights, seed=seed, shuffle=shuffle)
    found = np.concatenate([turns.draw_round(number) for number in range(n_rounds)])
    n = np.arange(1, len(found) + 1)

    assert len(found) == n_rounds * turns.n_round
    for source, share in enumerate(turns.shares):
        so_far = np.cumsum(found == source)
        rounds = so_far[turns.n_round - 1 :: turns.n_round]
        assert np.all(np.abs(rounds - share * n[turns.n_round - 1 :: turns.n_round]) < 1 + 1e-6)
        assert rounds[0] >= 1
        assert np.all(np.abs(so_far - share * n) < 3 + share * len(weights) + 1e-6)


@settings(max_examples=40, deadline=None)
@given(weights, seeds, st.booleans(), st.integers(0, 3 * ROUND))
def test_turns_go_on_at_any_row(weights: tuple[float, ...], seed: int, shuffle: bool, n_before: int) -> None:
    """With those that would have followed."""
    turns = Turns(weights=weights, seed=seed, shuffle=shuffle)
    whole = list(itertools.islice(turns.take(), n_before + 50))

    assert list(itertools.islice(turns.take(n_before), 50)) == whole[n_before:]


class Counted:
    """A source of so many rows, whose rows are counted as they are taken."""

    def __init__(self, size: int) -> None:
        """Begin its first epoch."""
        self.size, self.epoch, self.position, self.n_given = size, 0, 0, 0

    def take(self) -> None:
        """Give a row."""
        self.position, self.n_given = self.position + 1, self.n_given + 1
        if self.position == self.size:
            self.epoch, self.position = self.epoch + 1, 0


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), seeds, st.booleans(), st.data())
def test_turns_without_weights(sizes: list[int], seed: int, shuffle: bool, data: st.DataObject) -> None:
    """An epoch has each row of all once; sources that have rows left have given as many; turns go on at any row."""
    turns, sources = EvenTurns(seed=seed, shuffle=shuffle), [Counted(size) for size in sizes]
    following, found = turns.follow(sources), []
    n_before = data.draw(st.integers(0, 3 * sum(sizes) - 1))
    for number in range(3 * sum(sizes)):
        if number == n_before:
            # Nothing but what the sources know of themselves is needed to go on.
            following = EvenTurns(seed=seed, shuffle=shuffle).follow(sources)
        source = next(following)
        sources[source].take()
        found.append(source)
        rows = [own.position if own.epoch == number // sum(sizes) else own.size for own in sources]
        longest = max(rows)
        assert (number + 1) % sum(sizes) == 0 or all(
            longest - 1 <= given or given == own.size for given, own in zip(rows, sources, strict=True)
        )

    for start in range(0, len(found), sum(sizes)):
        epoch = found[start : start + sum(sizes)]
        assert [epoch.count(source) for source in range(len(sizes))] == sizes
    assert shuffle or found[: len(sizes)] == list(range(len(sizes)))


def test_turns_without_weights_are_drawn() -> None:
    """In every round and epoch, and with every seed, anew."""
    orders = []
    for seed in range(2):
        sources = [Counted(8) for _ in range(4)]
        following = take_turns(EvenTurns(seed=seed, shuffle=True), sources)
        for number in range(64):
            source = next(following)
            sources[source].take()
            orders += [[source]] if number % 4 == 0 else []
            orders[-1] += [source] if number % 4 else []

    assert len(set(map(tuple, orders))) > 12
    assert tuple(map(tuple, orders[:8])) != tuple(map(tuple, orders[8:16])) != tuple(map(tuple, orders[16:24]))
    assert list(itertools.islice(take_turns(None, sources), 3)) == [0, 0, 0]


def test_seeds_and_rounds_differ() -> None:
    """And turns that are not drawn are even."""
    drawn = [
        tuple(Turns(weights=(2, 1), seed=seed, shuffle=True).draw_round(number).tolist())
        for seed, number in ((0, 0), (0, 1), (1, 0))
    ]

    assert len(set(drawn)) == 3
    assert list(itertools.islice(Turns(weights=(1, 1), seed=0, shuffle=False).take(), 6)) == [0, 1, 0, 1, 0, 1]


def test_rounds_have_a_row_of_rare_sources() -> None:
    """Up to a length that can be drawn together; of what is rarer it is said which source it is."""
    turns = Turns(weights=(1, 1e-5), seed=0, shuffle=True)

    assert turns.n_round == pytest.approx(1e5, rel=1e-4)
    assert set(turns.draw_round(0).tolist()) == {0, 1}
    assert find_too_rare((1, 1e-5)) is None
    assert find_too_rare((1, 1e-9, 1)) == 1
    assert Turns(weights=(1, 1e-9), seed=0, shuffle=True).n_round == MOST_OF_A_ROUND
