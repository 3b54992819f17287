"""The lines of a run: means weigh each step by its terms, tokens are counted apart; older states have their counts."""

import json
from pathlib import Path

import pytest

from vlora.events import StepReport
from vlora.output.metrics_log import MetricsLog
from vlora.output.metrics_resume import resume_metrics


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
    log = MetricsLog.begin(tmp_path / "metrics.jsonl")
    log.interval.add(report(1, 1.0, 3.0, 90))
    log.interval.add(report(2, 5.0, 1.0, 10))
    log.write_interval(None)
    (line,) = (json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines())

    assert line["loss"] == pytest.approx((1.0 * 3 + 5.0) / 4)
    assert line["supervised_tokens"] == 100
    assert line["tokens_per_s"] == pytest.approx(200)
    assert line["padding"] == pytest.approx(0.5)
    assert not log.has_steps


def test_steps_that_were_passed_over_are_counted(tmp_path: Path) -> None:
    """Beside others, and in a line of their own where there is none; a run that goes on remembers them."""
    log = MetricsLog.begin(tmp_path / "metrics.jsonl")
    log.interval.add(report(1, 1.0, 3.0, 90))
    log.pass_over(2)
    log.write_interval(None)
    log.pass_over(3)
    log.pass_over(4)
    assert log.has_steps
    mark = log.mark(None).dumps()
    log.write_interval(None)
    assert not log.has_steps
    log.interval.add(report(5, 1.0, 3.0, 90))
    log.write_interval(None)
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]

    assert [(line["step"], line.get("loss"), line.get("steps_passed_over")) for line in lines] == [
        (2, 1.0, 1),
        (4, None, 2),
        (5, 1.0, None),
    ]
    resumed = resume_metrics(tmp_path / "metrics.jsonl", 4, mark)
    assert (resumed.n_lines, resumed.interval.n_passed, resumed.interval.last["step"]) == (1, 2, 4)
