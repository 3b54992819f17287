"""Metrics that go on: older states have their counts, lines behind the saved state go, foreign lines are refused."""

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.output.test_metrics_log import report
from vlora.errors import CheckpointError
from vlora.output.metrics_log import Interval, Mark, MetricsLog
from vlora.output.metrics_resume import resume_metrics


def test_a_mark_of_an_older_run_counts_tokens(tmp_path: Path) -> None:
    """It has no count of terms: they were the supervised tokens. A newer one is read as it was written."""
    interval = Interval()
    interval.add(report(1, 1.0, 3.0, 90))
    newer: dict[str, Any] = attrs.asdict(interval)
    older = {name: value for name, value in newer.items() if name != "terms"}
    (tmp_path / "metrics.jsonl").write_text("")

    for saved, expected in ((newer, 3.0), (older, 90)):
        mark = Mark(n_lines=0, interval=saved).dumps()
        assert resume_metrics(tmp_path / "metrics.jsonl", 1, mark).interval.terms == expected


def test_lines_behind_the_saved_state_are_removed(tmp_path: Path) -> None:
    """What was reported after the state was saved is reported again; a line that was cut off is no obstacle."""
    file = tmp_path / "metrics.jsonl"
    log = MetricsLog.begin(file)
    for step in (1, 2):
        log.write({"step": step})
    mark = log.mark(None).dumps()
    log.write({"step": 3})
    with file.open("a") as end:
        end.write('{"step": 4, "lo')

    for saved in (mark, None):
        kept = resume_metrics(file, 2, saved)
        assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2]
        assert kept.n_lines == 2
        assert kept.is_marked == (saved is not None)


def test_the_last_round_of_answers_of_a_longer_run_stays(tmp_path: Path) -> None:
    """A run that had ended and gets more steps keeps what its model answered; one without a step left asks again."""
    file = tmp_path / "metrics.jsonl"
    log = MetricsLog.begin(file)
    log.write({"step": 2})
    mark = log.mark(None).dumps()
    log.write({"step": 2, "accuracy_after": 0.5})
    whole = file.read_text()

    kept = resume_metrics(file, 2, mark)
    assert (file.read_text() == whole, kept.keeps_last, kept.answered) == (True, True, 2)
    again = resume_metrics(file, 2, mark, is_over=True)
    assert (again.n_lines, again.keeps_last, again.answered) == (1, False, -1)


def test_a_foreign_line_is_refused(tmp_path: Path) -> None:
    """The error names file and line."""
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\nno object\n{"step": 2}\n')

    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: line 2 is not one of a run's metrics: 'no object'"):
        resume_metrics(file, 2)
