"""What a long run adds to its memory step by step is told from what a new shape brings along."""

import attrs
import numpy as np
import pytest

from benchmarks.growth import Growth, count_traces, tell_traces_apart


def test_traces_at_a_moment() -> None:
    """Between two reports with the same number there were so many; between others nobody knows."""
    reports = [
        {"unix_time": 10.0, "n_traces": 2},
        {"unix_time": 20.0, "n_traces": 2},
        {"unix_time": 30.0, "n_traces": 3},
    ]

    assert count_traces([5.0, 15.0, 20.0, 25.0, 30.0, 35.0], reports) == [None, 2, 2, None, None, 3]


@pytest.mark.parametrize("leak", [0.0, 0.0002])
@pytest.mark.parametrize("of_a_trace", [0.0, 0.015])
def test_growth_is_told_apart(leak: float, of_a_trace: float) -> None:
    """A graph kept for a shape is no leak, a leak no graph, and what the allocator keeps for a while neither."""
    steps = np.arange(1000)
    traces = 10 + np.searchsorted([100, 150, 400, 800], steps, side="right")
    noise = np.random.default_rng(0).choice([0.0, 0.02], 1000, p=[0.8, 0.2])
    memory = 3.0 + leak * steps + of_a_trace * traces + noise
    found = tell_traces_apart(traces.tolist(), steps.tolist(), memory.tolist())

    assert found.between_traces == pytest.approx(leak * 999, abs=0.015)
    assert found.with_traces == pytest.approx(4 * of_a_trace, abs=0.02)
    assert found.n_new == 4
    assert found.is_flat(0.15) == (leak == 0)
    assert attrs.evolve(found, n_new=1).is_flat(0.03) == (leak == of_a_trace == 0)


def test_shapes_that_are_always_new() -> None:
    """Nothing tells the one from the other then, and all of it is called growth."""
    assert tell_traces_apart([None, None], [1.0, 2.0], [1.0, 3.0]) == Growth(2.0, 0.0, 0)
