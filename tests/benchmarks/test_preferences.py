"""The benchmark of steps over pairs: it measures all ways, and says what it found."""

from pathlib import Path

import pytest

from benchmarks.preferences import GOALS, WAYS, measure, show_table
from benchmarks.run.rows import KINDS


@pytest.mark.slow
def test_all_ways_are_measured(tmp_path: Path) -> None:
    """Seconds and memory of each; kept and live references have the same losses, at first ln 2."""
    found = measure(KINDS["cpu"], 2, 1, tmp_path)

    assert found["ways"].keys() == WAYS.keys()
    assert found["ratios"].keys() == GOALS.keys()
    assert all(own["seconds"] > 0 and own["peak_gb"] > 0 for own in found["ways"].values())
    assert found["ways"]["live"]["losses"][0] == pytest.approx(0.6931, abs=1e-3)
    assert found["loss_difference"] <= 1e-6
    assert found["same_losses"]
    assert len(show_table(found)) == len(WAYS) + len(GOALS) + 6


def test_what_is_printed() -> None:
    """A line for each way, and the ratios with their goals."""
    way = {"seconds": 0.5, "least": 0.4, "most": 0.75, "peak_gb": 0.25, "losses": [0.7]}
    found = {
        "pairs": 8,
        "tokens": 8208,
        "ways": {"live": way},
        "ratios": {"live / sft": 1.5},
        "loss_difference": 0.0,
    }

    lines = show_table(found)

    assert "| live | 0.5 (0.4 to 0.75) | 0.25 |" in lines
    assert "live / sft: 1.50 (goal 1.6)" in lines
