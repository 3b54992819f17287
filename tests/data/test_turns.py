"""Turns of streamed sources: shares to the nearest row behind each round, evenly spread, going on at any row."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlora.data.turns import MOST_OF_A_ROUND, ROUND, Turns, find_too_rare

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
