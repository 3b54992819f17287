"""What a run prints."""

import pytest

from vlora.cli.view import _report_line
from vlora.events import Reported


@pytest.mark.parametrize(("width", "is_whole"), [(None, True), (120, True), (80, False)])
def test_a_report_fits_its_terminal(width: int | None, is_whole: bool) -> None:
    """Where a report is wider than the terminal, it leaves out what the bar below it shows."""
    metrics = {"step": 123456, "loss": 18.36992, "running_loss": 18.36992, "learning_rate": 1e-3}
    metrics |= {"grad_norm": 121.0521, "tokens_per_s": 52345.1, "peak_memory_gb": 101.234}
    line = _report_line(Reported(metrics=metrics), width)

    assert len(line) <= (width or 120)
    assert line.startswith("step 123456  loss 18.3699  ")
    assert "grad norm 121.052  52,345 tokens/s" in line
    assert ("mean 18.3699" in line, "101.23 GB" in line) == (is_whole, is_whole)
