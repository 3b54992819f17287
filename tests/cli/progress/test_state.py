"""How far a run is, from its events."""

from pathlib import Path

import attrs
import pytest

from vlora.cli.progress.state import N_RECENT, ProgressState
from vlora.events import Generated, Saved, StepReport, Working

STEP = StepReport(
    step=1,
    loss=1.0,
    running_loss=1.0,
    learning_rate=1e-3,
    grad_norm=1.0,
    tokens=100,
    places=100,
    supervised_tokens=10,
    n_terms=10,
    step_s=60.0,
    wait_s=0.0,
    n_traces=1,
    trace_s=60.0,
    n_steps=100,
)


@attrs.define
class Clock:
    """A clock that stands still until it is moved."""

    now: float = 0.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


def test_what_comes_before_the_first_step() -> None:
    """Each phase has its word and its own time; answers are counted."""
    clock = Clock()
    state = ProgressState(clock=clock)
    assert (state.what, state.seconds_left) == ("starting", None)
    clock.now = 5
    state.take(Working(what="loading the model"))
    clock.now = 8
    assert (state.what, state.elapsed, state.total, state.seconds_left) == ("loading the model", 3, None, None)

    state.take(Working(what="answering before training", total=300))
    assert (state.done, state.total, state.seconds_left) == (0, 300, None)
    clock.now = 18
    state.take(Generated(when="before", done=100, total=300, accuracy=0.0, expected="a", found="b"))
    assert (state.what, state.done) == ("answering before training", 100)
    assert state.seconds_left == pytest.approx(20)


def test_steps_that_compile_say_little_of_the_coming_ones() -> None:
    """The first one is all that there is to go by, until one comes that compiles nothing."""
    state = ProgressState()
    state.take(STEP)
    assert (state.what, state.done, state.total, state.seconds_left) == ("training", 1, 100, 99 * 60.0)

    state.take(attrs.evolve(STEP, step=2, step_s=2.0))
    assert state.seconds_left == 98 * 2.0
    state.take(attrs.evolve(STEP, step=3, step_s=30.0, n_traces=2))
    assert state.seconds_left == 97 * 2.0
    for step in range(4, 4 + N_RECENT):
        state.take(attrs.evolve(STEP, step=step, step_s=1.0, n_traces=2))
    assert state.seconds_left == 100 - state.done


def test_between_steps() -> None:
    """What interrupts the training is shown until it is over, and the steps are where they were."""
    state = ProgressState()
    state.take(attrs.evolve(STEP, step=7))
    state.take(Working(what="validating"))
    assert (state.what, state.total) == ("validating", None)
    state.take(Saved(path=Path("a"), step=7))
    assert (state.what, state.done, state.total) == ("training", 7, 100)


def test_a_run_whose_length_is_not_known() -> None:
    """Has no time left that could be told."""
    state = ProgressState()
    state.take(attrs.evolve(STEP, n_steps=None))

    assert state.seconds_left is None
    assert state.total is None
