"""predictions.jsonl goes on where its run was saved."""

import json
from pathlib import Path

import pytest

from vlora.output.metrics_log import MetricsLog
from vlora.output.predictions_log import PredictionsLog


def write(path: Path, *steps: int) -> int:
    """Write lines of some steps; give how long the first two are."""
    lines = [json.dumps({"row": f"row {number}", "step": step}) + "\n" for number, step in enumerate(steps)]
    path.write_text("".join(lines))
    return len("".join(lines[:2]))


def steps_of(path: Path) -> list[int]:
    """List the steps of a file's lines."""
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("keeps_last", "kept"), [(False, [0, 4]), (True, [0, 4, 4])])
def test_what_is_behind_the_saved_state_goes(keeps_last: bool, kept: list[int], tmp_path: Path) -> None:
    """But the answers with which a run had ended, where it goes on with more steps."""
    path = tmp_path / "predictions.jsonl"
    n_bytes = write(path, 0, 4, 4, 6, 4)
    metrics = MetricsLog(tmp_path / "metrics.jsonl", prediction_bytes=n_bytes, keeps_last=keeps_last)
    log = PredictionsLog.open(path, metrics, 4)
    assert steps_of(path) == kept

    log.write(iter(['{"step": 8}\n']))
    assert steps_of(path) == [*kept, 8]
    assert log.n_bytes == path.stat().st_size


def test_an_older_state_says_nothing_of_it(tmp_path: Path) -> None:
    """Lines up to its step stay; half of a line goes."""
    path = tmp_path / "predictions.jsonl"
    write(path, 0, 2, 4)
    with path.open("a") as file:
        file.write('{"step": 4, "ro')
    PredictionsLog.open(path, MetricsLog(tmp_path / "metrics.jsonl"), 2)

    assert steps_of(path) == [0, 2]


def test_a_new_run_begins_without_a_file(tmp_path: Path) -> None:
    """Nothing of another one is left, and nothing is there before an answer is."""
    path = tmp_path / "predictions.jsonl"
    write(path, 0)
    log = PredictionsLog.open(path, MetricsLog(tmp_path / "metrics.jsonl"), None)

    assert not path.exists()
    log.sync()
    assert log.n_bytes == 0


def test_a_file_that_is_gone_is_begun_anew(tmp_path: Path) -> None:
    """What somebody has removed is not missed."""
    path = tmp_path / "predictions.jsonl"
    log = PredictionsLog.open(path, MetricsLog(tmp_path / "metrics.jsonl", prediction_bytes=99), 2)

    assert log.n_bytes == 0
