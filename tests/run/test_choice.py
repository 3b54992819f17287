"""Which state is the best one, and when a run has stopped getting better."""

import math

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora.run.choice import Choice

values = st.lists(st.floats(-1e3, 1e3), max_size=12)


def judge_all(found: list[float], min_delta: float = 0.0, *, is_higher_better: bool = False) -> Choice:
    """Judge the states of steps 1, 2, ..."""
    choice = Choice(is_higher_better=is_higher_better)
    for step, value in enumerate(found, start=1):
        choice = choice.judge(step, value, min_delta)
    return choice


@given(values, st.booleans())
def test_the_first_of_the_best_is_chosen(found: list[float], is_higher_better: bool) -> None:
    """The smallest or the largest value wins, and of equal ones that of the earliest step."""
    choice = judge_all(found, is_higher_better=is_higher_better)
    best = (max if is_higher_better else min)(found, default=None)

    assert choice.value == best
    assert choice.step == (None if best is None else found.index(best) + 1)


@given(values, st.integers(1, 4), st.booleans())
def test_a_run_stops_once_none_was_better(found: list[float], patience: int, is_higher_better: bool) -> None:
    """Without a least difference: as many steps as patience allows have passed since the best one."""
    choice = judge_all(found, is_higher_better=is_higher_better)

    assert choice.has_stopped(patience) == (choice.step is not None and len(found) - choice.step >= patience)
    assert not choice.has_stopped(None)


@given(values, st.floats(0, 10), st.integers(0, 12))
def test_what_is_written_goes_on(found: list[float], min_delta: float, at: int) -> None:
    """A choice that was written and read again ends where one that was not ends."""
    choice = Choice.loads(judge_all(found[:at], min_delta).dumps())
    for step, value in enumerate(found[at:], start=len(found[:at]) + 1):
        choice = choice.judge(step, value, min_delta)

    assert choice == judge_all(found, min_delta)


def test_small_gains_add_up() -> None:
    """A value that is better by less is the best one, but no gain, until it is one together with others."""
    choice = judge_all([1.0, 0.95, 0.92], min_delta=0.1)
    assert (choice.step, choice.value, choice.n_stale) == (3, 0.92, 2)

    choice = choice.judge(4, 0.89, 0.1)
    assert (choice.step, choice.n_stale, choice.reference) == (4, 0, 0.89)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_better(value: float) -> None:
    """It counts as a state that is no better; alone it is no best one."""
    assert judge_all([value]) == attrs.evolve(Choice(), n_stale=1, judged=1)
    assert judge_all([1.0, value]) == attrs.evolve(judge_all([1.0]), n_stale=1, judged=2)


def test_the_untrained_model_is_no_candidate() -> None:
    """Its value is told where no state was better than it."""
    choice = Choice().judge(0, 1.0)
    assert choice.best() is None

    worse, better = choice.judge(2, 1.5).best(), choice.judge(2, 0.5).best()
    assert worse is not None
    assert better is not None
    assert (worse.step, worse.untrained, better.untrained) == (2, 1.0, None)


def test_a_step_is_judged_once() -> None:
    """A run that is over answers once more where it is gone on with."""
    choice = judge_all([1.0, 2.0])

    assert choice.judge(2, 0.5) == choice


def test_a_lost_state_is_forgotten() -> None:
    """The next one is the best one; how long none was better stays."""
    choice = judge_all([1.0, 2.0]).forget()

    assert choice.best() is None
    assert choice.n_stale == 1
    assert choice.judge(3, 1.5).value == 1.5
    assert choice.judge(3, 1.5).n_stale == 2
