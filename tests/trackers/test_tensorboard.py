"""TensorBoard's event files, read back."""

from pathlib import Path
from typing import Any

import pytest

from tests.trackers.tracked import ENDINGS, make_answers, make_run, read_events, scalars
from vlora.trackers.tensorboard import TensorBoard

pytest.importorskip("tensorboardX")


@pytest.mark.parametrize("ending", ENDINGS)
def test_numbers_are_scalars(ending: Any, tmp_path: Path) -> None:
    """In the run's folder, with the recipe as a text."""
    tracker = TensorBoard.open()

    tracked = tracker.start(make_run(tmp_path))
    tracker.log({"loss": 1.5, "json_fields.größe": 0.25}, 10)
    tracker.log({"valid_loss": 1.25}, 20)
    tracker.end(ending)

    events = read_events(tmp_path / "tensorboard")
    assert tracked.where == str(tmp_path / "tensorboard")
    assert ("loss", 10, 1.5) in scalars(events)
    assert ("valid_loss", 20, 1.25) in scalars(events)
    assert len(scalars(events)) == 3
    texts = [value for event in events for value in event.summary.value if value.tag.startswith("recipe")]
    assert b"iters = 3" in texts[0].tensor.string_val[0]


def test_answers_are_a_text(tmp_path: Path) -> None:
    """A table behind its step."""
    tracker = TensorBoard.open()
    tracker.start(make_run(tmp_path))
    tracker.show_answers(make_answers(), 20)
    tracker.end("finished")

    events = read_events(tmp_path / "tensorboard")
    found = [
        (event.step, value) for event in events for value in event.summary.value if value.tag.startswith("answers")
    ]
    ((step, value),) = found
    assert step == 20
    assert value.tensor.string_val[0].decode() == make_answers().write_table()


def test_a_run_that_goes_on_purges_what_it_does_anew(tmp_path: Path) -> None:
    """TensorBoard reads from the first file what is before that step."""
    first = TensorBoard.open()
    key = first.start(make_run(tmp_path)).key
    for step in (10, 20, 30):
        first.log({"loss": 100 / step}, step)
    first.end("failed")

    second = TensorBoard.open()
    second.start(make_run(tmp_path, first_step=20, key=key))
    second.log({"loss": 3.0}, 30)
    second.end("finished")

    events = read_events(tmp_path / "tensorboard")
    starts = [event.step for event in events if event.HasField("session_log")]
    assert starts == [21]
    assert scalars(events)[-1] == ("loss", 30, 3.0)


def test_runs_of_one_second_have_files_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that goes on at once leaves what is there, and its file comes behind in their names' order."""
    monkeypatch.setattr("time.time", lambda: 1e9)
    key = None
    for first_step in (0, 1, 2):
        tracker = TensorBoard.open()
        key = tracker.start(make_run(tmp_path, first_step=first_step, key=key)).key
        tracker.log({"loss": 1.0 + first_step}, first_step + 1)
        tracker.end("finished")

    files = sorted(file.name for file in (tmp_path / "tensorboard").iterdir())
    assert [name[-5:] for name in files] == [".0000", ".0001", ".0002"]
    assert scalars(read_events(tmp_path / "tensorboard")) == [("loss", 1, 1.0), ("loss", 2, 2.0), ("loss", 3, 3.0)]


def test_the_end_of_nothing(tmp_path: Path) -> None:
    """A run that failed before it began leaves nothing behind."""
    TensorBoard.open().end("failed")

    assert not list(tmp_path.iterdir())
