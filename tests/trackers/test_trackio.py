"""trackio's database, read back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trackers.tracked import ENDINGS, make_answers, make_run
from vlora.trackers.tracker import ANSWER_COLUMNS
from vlora.trackers.trackio import Trackio

trackio = pytest.importorskip("trackio")


@pytest.fixture(autouse=True)
def _database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep it in a folder of the test; trackio has read the variable when it was imported."""
    from trackio import sqlite_storage, utils

    for module in (trackio, sqlite_storage, utils):
        if hasattr(module, "TRACKIO_DIR"):
            monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    yield
    trackio.context_vars.current_run.set(None)


def read_logs(project: str, name: str) -> list[dict[str, Any]]:
    """Read what a run has logged, without its times."""
    from trackio.sqlite_storage import SQLiteStorage

    logs = SQLiteStorage.get_logs(project, name)
    return [{key: value for key, value in line.items() if key != "timestamp"} for line in logs]


@pytest.mark.parametrize("ending", ENDINGS)
def test_numbers_are_logged(ending: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With their steps, and without a word on the screen."""
    tracker = Trackio.open()

    tracked = tracker.start(make_run(tmp_path))
    tracker.log({"loss": 1.5, "json_fields.größe": 0.25}, 10)
    tracker.log({"valid_loss": 1.25}, 20)
    tracker.end(ending)

    assert read_logs("vlora", tracked.key) == [
        {"loss": 1.5, "json_fields.größe": 0.25, "step": 10},
        {"valid_loss": 1.25, "step": 20},
    ]
    assert "trackio show --project vlora" in tracked.where
    assert capsys.readouterr().out == ""


def test_answers_are_a_table(tmp_path: Path) -> None:
    """Of rows by their columns, logged at its step."""
    tracker = Trackio.open()
    tracked = tracker.start(make_run(tmp_path))
    tracker.show_answers(make_answers(), 20)
    tracker.end("finished")

    (line,) = read_logs("vlora", tracked.key)
    assert line["step"] == 20
    assert line["answers"]["_value"] == [dict(zip(ANSWER_COLUMNS, row, strict=True)) for row in make_answers().rows]


def test_a_run_that_goes_on_is_the_same_run(tmp_path: Path) -> None:
    """And two runs in folders of one name are two."""
    first = Trackio.open()
    key = first.start(make_run(tmp_path, project="receipts")).key
    first.log({"loss": 1.5}, 10)
    first.end("failed")

    second = Trackio.open()
    assert second.start(make_run(tmp_path, project="receipts", first_step=10, key=key)).key == key
    second.log({"loss": 1.0}, 20)
    second.end("finished")
    third = Trackio.open()
    other = third.start(make_run(tmp_path, project="receipts")).key
    third.end("finished")

    assert [line["step"] for line in read_logs("receipts", key)] == [10, 20]
    assert other != key


def test_the_end_of_nothing() -> None:
    """A run that failed before it began ends quietly."""
    Trackio.open().end("failed")
