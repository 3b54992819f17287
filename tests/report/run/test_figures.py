"""Charts show what a run has reported, and nothing that it has not."""

from pathlib import Path

import attrs
import pytest

from tests.report.run.test_run_files import write_run
from vlora.report.run.figures import loss_chart, metric_charts, other_charts, preference_charts
from vlora.report.run.run_files import read_run


def test_the_best_validation_is_pointed_out(tmp_path: Path) -> None:
    """By its step and its value."""
    lines = [{"step": step, "valid_loss": loss} for step, loss in [(0, 3.0), (34, 0.1417), (60, 0.252)]]
    chart = loss_chart(read_run(write_run(tmp_path, *lines, {"step": 60, "loss": 0.1, "running_loss": 0.3})))

    assert [mark.text for mark in chart.marks] == ["best 0.1417 at step 34"]
    assert [len(line.xs) for line in chart.lines] == [1, 0, 3]
    assert chart.takes_log


def test_many_reports_have_their_means(tmp_path: Path) -> None:
    """Of a twentieth of them each, drawn over the reports; of few reports there is none."""
    lines = [{"step": step, "loss": float(step % 2)} for step in range(1, 61)]
    reports, means, _ = loss_chart(read_run(write_run(tmp_path, *lines))).lines

    assert reports.is_faint
    assert means.name == "train, mean of 3 reports"
    assert means.ys[:4] == pytest.approx((1.0, 0.5, 2 / 3, 1 / 3))


def test_a_run_that_does_not_validate(tmp_path: Path) -> None:
    """Points out nothing; one without any report has nothing to draw."""
    chart = loss_chart(read_run(write_run(tmp_path, {"step": 60, "loss": 0.1, "running_loss": 0.3})))

    assert chart.marks == ()
    assert chart.has_points
    assert not loss_chart(read_run(write_run(tmp_path, {"step": 0, "valid_loss_of_another": 1}))).has_points


def test_metrics_have_their_intervals(tmp_path: Path) -> None:
    """Each metric is a chart; ends of intervals and numbers of rows are none."""
    lines = [
        {
            "step": step,
            "eval_anls": 0.5,
            "eval_anls_low": 0.4,
            "eval_anls_high": 0.6,
            "eval_token_f1": 0.2,
            "eval_rows": 9,
        }
        for step in (0, 10)
    ]
    charts = list(metric_charts(read_run(write_run(tmp_path, *lines))))

    assert [chart.title for chart in charts] == ["ANLS", "token F1"]
    assert (charts[0].lines[0].low, charts[0].lines[0].high) == ((0.4, 0.4), (0.6, 0.6))
    assert charts[1].lines[0].low == ()


def test_answers_of_older_runs(tmp_path: Path) -> None:
    """What was right before and after training."""
    lines = [{"step": 0, "accuracy_before": 0.1}, {"step": 9, "accuracy_before": 0.1, "accuracy_after": 0.8}]
    [chart] = metric_charts(read_run(write_run(tmp_path, *lines)))

    assert [(line.xs, line.ys) for line in chart.lines] == [((0, 9), (0.1, 0.8))]


def test_other_numbers(tmp_path: Path) -> None:
    """Those that are there; memory in one chart."""
    line = {"step": 9, "learning_rate": 1e-5, "peak_memory_gb": 2.0, "active_memory_gb": 1.0, "wait_s": 0.0}
    charts = list(other_charts(read_run(write_run(tmp_path, line))))

    assert [chart.title for chart in charts] == ["Learning rate", "Memory", "Waiting for rows"]
    assert [line.name for line in charts[1].lines] == ["peak", "in use"]


def test_preferences_have_their_charts(tmp_path: Path) -> None:
    """Margins and shares of training and validation, rewards and log-probabilities of both sides; none without them."""
    report = {"step": 4, "loss": 0.6, "rewards/margins": 0.5, "rewards/accuracies": 1.0, "entropy": 2.0}
    sides = {f"{kind}/{side}": 1.0 for kind in ("rewards", "logps") for side in ("chosen", "rejected")}
    lines = [report | sides, {"step": 4, "valid_loss": 0.6, "valid_rewards/margins": 0.25}]
    run = read_run(write_run(tmp_path / "pairs", *lines))
    charts = {chart.title: [line.name for line in chart.lines] for chart in preference_charts(run)}

    assert charts == {
        "Margin of rewards": ["train", "validation"],
        "Better answers ahead": ["train"],
        "Rewards": ["better answers", "worse answers"],
        "Log-probabilities": ["better answers", "worse answers"],
        "Entropy": ["of the next token"],
    }
    assert loss_chart(run).y_label == "mean over pairs"
    plain = read_run(write_run(tmp_path / "plain", {"step": 4, "loss": 0.6}))
    assert not list(preference_charts(plain))
    assert loss_chart(plain).y_label == "nats per supervised token"
    other = attrs.evolve(plain, recipe={"train.objective": "worst_row"})
    assert loss_chart(other).y_label == "mean over what worst_row counts"
