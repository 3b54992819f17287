"""Learning rates and cadences, step by step."""

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora.data.sampler import step_batches
from vlora.recipe.schema import OptimSection, TrainSection
from vlora.train.schedules import count_steps, is_due, learning_rate_at, make_schedule

SCHEDULES = ("constant", "linear", "cosine")
runs = st.tuples(st.sampled_from(SCHEDULES), st.integers(1, 200), st.integers(0, 300), st.floats(1e-8, 10))


def curve(schedule: Any, n_steps: int, warmup_steps: int, rate: float) -> list[float]:
    section = OptimSection(schedule=schedule, warmup_steps=warmup_steps, learning_rate=rate)
    return [learning_rate_at(step, n_steps, section) for step in range(1, n_steps + 1)]


@given(runs)
def test_rates_rise_and_fall(run: tuple[str, int, int, float]) -> None:
    """Rates rise in a line from 0 over the warmup to the highest, then never rise again; every later step learns."""
    schedule, _, warmup_steps, rate = run
    rates = curve(*run)

    assert all(0 < value <= rate * (1 + 1e-12) for value in rates[bool(warmup_steps) :])
    for step, value in enumerate(rates[:warmup_steps]):
        assert math.isclose(value, rate * step / warmup_steps)
    after = rates[warmup_steps:]
    assert all(later <= earlier for earlier, later in itertools.pairwise(after))
    if after:
        assert after[0] == rate
    if schedule == "constant":
        assert all(value == rate for value in after)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_rate_falls_to_zero(schedule: Any) -> None:
    """A falling schedule passes half the rate half-way and would be at zero one step after the last."""
    section = OptimSection(schedule=schedule, warmup_steps=100, learning_rate=3.0)

    assert math.isclose(learning_rate_at(101, 1100, section), 3.0)
    assert math.isclose(learning_rate_at(601, 1100, section), 1.5)
    assert abs(learning_rate_at(1101, 1100, section)) < 1e-12


def test_cosine_is_slow_at_both_ends() -> None:
    """A cosine is above the line in its first half and below it in its second."""
    linear, cosine = curve("linear", 100, 0, 1.0), curve("cosine", 100, 0, 1.0)

    assert all(cosine[step] > linear[step] for step in range(1, 50))
    assert all(cosine[step] < linear[step] for step in range(51, 100))


@given(st.integers(1, 100), st.integers(1, 8), st.integers(1, 5), st.integers(1, 4))
def test_epochs_count_steps(n_rows: int, batch_size: int, accumulation: int, epochs: int) -> None:
    """So many epochs pass over every row that often, short steps included."""
    train = TrainSection(epochs=epochs, batch_size=batch_size, gradient_accumulation_steps=accumulation, seed=1)
    n_steps = count_steps(train, n_rows)
    plan = step_batches(n_rows, batch_size, accumulation=accumulation, seed=1, shuffle=True, n_steps=n_steps)
    rows = [row for step in plan for batch in step for row in batch]

    assert sorted(rows) == sorted(list(range(n_rows)) * epochs)


def test_iters_count_steps() -> None:
    """Without epochs a run has as many steps as the recipe says."""
    assert count_steps(TrainSection(iters=7), n_rows=3) == 7


@given(st.integers(1, 50), st.integers(1, 200))
def test_due(every: int, n_steps: int) -> None:
    """What happens every so many steps also happens at the end, once."""
    found = [step for step in range(1, n_steps + 1) if is_due(step, every, n_steps)]

    assert found == sorted({*range(every, n_steps + 1, every), n_steps})


def test_a_schedule_is_the_rate_of_each_step() -> None:
    """As a function of the step alone."""
    section = OptimSection(schedule="cosine", warmup_steps=3, learning_rate=0.5)
    schedule = make_schedule(section, 9)

    assert [schedule(step) for step in range(1, 10)] == [learning_rate_at(step, 9, section) for step in range(1, 10)]
