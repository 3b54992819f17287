"""Divided weights compared with whole ones: what a run's numbers are made of."""

from typing import Any

import pytest

from benchmarks.divided import WARM_STEPS, Way, compare, show_table, sum_up


def lines(frozen: float, peak: float, step_s: float) -> list[dict[str, Any]]:
    """Write the metrics of a run whose first steps are slow."""
    reports = []
    seconds = 50.0
    for step in range(1, 11):
        seconds += 30.0 if step <= WARM_STEPS else step_s
        reports.append(
            {"step": step, "loss": 1.0 / step, "seconds": seconds, "peak_memory_gb": peak, "active_memory_gb": frozen}
        )
    return [{"step": 0, "frozen_gb": frozen}, *reports]


def test_a_run_is_summed_up() -> None:
    """The first steps are not timed."""
    found = sum_up(lines(17.0, 20.0, 0.25))

    assert found["step_s"] == pytest.approx(0.25)
    assert (found["frozen_gb"], found["peak_gb"], len(found["losses"])) == (17.0, 20.0, 10)


@pytest.mark.parametrize(("peak", "holds"), [(12.0, True), (14.0, False)])
def test_runs_are_compared(peak: float, holds: bool) -> None:
    """Shares of memory against their goals, and how many times as long a step takes."""
    found: dict[Way, dict[str, Any]] = {
        "none": sum_up(lines(17.0, 20.0, 0.25)),
        "params": sum_up(lines(8.6, peak, 0.3)),
    }
    result = compare(found)

    assert result["frozen"] == pytest.approx(8.6 / 17.0)
    assert result["slowdown"] == pytest.approx(1.2)
    assert result["loss_distance"] == 0
    assert result["holds"] == {"frozen": True, "peak": holds}
    assert len(show_table(found)) == 4
