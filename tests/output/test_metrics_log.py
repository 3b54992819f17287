"""The lines of a run: means weigh each step by its terms, tokens are counted apart; older states have their counts."""

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from vlora.events import StepReport
from vlora.output.metrics_log import Interval, Mark, MetricsLog


def report(step: int, loss: float, n_terms: float, n_tokens: int) -> StepReport:
    """Report a step."""
    return StepReport(
        step=step,
        loss=loss,
        running_loss=loss,
        learning_rate=1e-3,
        grad_norm=1.0,
        tokens=2 * n_tokens,
        places=4 * n_tokens,
        supervised_tokens=n_tokens,
        n_terms=n_terms,
        step_s=0.5,
        wait_s=0.1,
        n_traces=1,
        trace_s=0.2,
    )


def test_a_line_is_a_mean_over_terms(tmp_path: Path) -> None:
    """Two steps over pairs: each pair counts once, however many tokens it has; tokens are those that were learned."""
    log = MetricsLog.open(tmp_path / "metrics.jsonl", None)
    log.interval.add(report(1, 1.0, 3.0, 90))
    log.interval.add(report(2, 5.0, 1.0, 10))
    log.write_interval(None)
    (line,) = (json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines())

    assert line["loss"] == pytest.approx((1.0 * 3 + 5.0) / 4)
    assert line["supervised_tokens"] == 100
    assert line["tokens_per_s"] == pytest.approx(200)
    assert line["padding"] == pytest.approx(0.5)
    assert not log.has_steps


def test_a_mark_of_an_older_run_counts_tokens(tmp_path: Path) -> None:
    """It has no count of terms: they were the supervised tokens. A newer one is read as it was written."""
    interval = Interval()
    interval.add(report(1, 1.0, 3.0, 90))
    newer: dict[str, Any] = attrs.asdict(interval)
    older = {name: value for name, value in newer.items() if name != "terms"}
    (tmp_path / "metrics.jsonl").write_text("")

    for saved, expected in ((newer, 3.0), (older, 90)):
        mark = Mark(n_lines=0, interval=saved).dumps()
        assert MetricsLog.open(tmp_path / "metrics.jsonl", 1, mark).interval.terms == expected
