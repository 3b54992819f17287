"""Rows that cannot be read: found before anything is validated, passed over by the answers, too."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.test_driver import make_recipe, run
from tests.training import picture
from vlora import fit
from vlora.errors import SampleError
from vlora.events import Answered, Event, Finished, Reported, Skipped
from vlora.outputs import METRICS_NAME

CheckpointFactory = Callable[[str], Path]
N_ROWS = 5


def write_rows(folder: Path, name: str, *, missing: tuple[int, ...] = ()) -> Path:
    """Write rows of which some name an image that is not there."""
    lines = []
    for number in range(N_ROWS):
        image = f"{name}-{number}.png"
        if number not in missing:
            picture(32, 32, number).save(folder / image)
        lines.append(json.dumps({"image": image, "question": f"What is {number}?", "answer": f"it is {number}"}))
    file = folder / f"{name}.jsonl"
    file.write_text("\n".join(lines))
    return file


@pytest.mark.parametrize("batching", ["shuffled", "grouped", "packed"])
def test_a_bad_first_row_is_found_before_the_validation(
    batching: str, checkpoint: CheckpointFactory, tmp_path: Path
) -> None:
    """The rows of the first step are read before anything is asked, validated or written."""
    rows = write_rows(tmp_path, "rows", missing=tuple(range(N_ROWS)))
    valid = write_rows(tmp_path, "valid")
    options = {"data__valid_path": str(valid), "eval__answer_rows": 1, "train__batching": batching}
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", **options)
    events: list[Event] = []
    with pytest.raises(SampleError, match=r"rows\.jsonl train row \d: cannot read the image"):
        events.extend(fit(recipe))

    assert not events
    assert not (tmp_path / "out" / METRICS_NAME).exists()


@pytest.mark.parametrize("missing", [(0,), (4,), (1, 2)])
def test_answers_skip_bad_rows(missing: tuple[int, ...], checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """With on_bad_row = "skip" the rows that can be read are asked; the others are told and counted each time."""
    rows, valid = write_rows(tmp_path, "rows"), write_rows(tmp_path, "valid", missing=missing)
    options = {"data__valid_path": str(valid), "eval__answer_rows": -1, "eval__max_new_tokens": 1, "train__iters": 1}
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", data__on_bad_row="skip", **options)
    events = run(recipe)
    answers = [event for event in events if isinstance(event, Answered)]
    metrics = [event.metrics for event in events if isinstance(event, Reported)]
    reasons = [event.reason for event in events if isinstance(event, Skipped)]
    n_good, n_rounds = N_ROWS - len(missing), 4  # of answers two, and two of validation

    assert [(event.when, event.done) for event in answers] == [
        (when, done) for when in ("before", "after") for done in range(1, n_good + 1)
    ]
    assert [event.total for event in answers if event.done == n_good] == [n_good] * 2
    assert {f"it is {number}" for number in range(N_ROWS) if number not in missing} == {
        event.expected for event in answers
    }
    assert [set(line) - {"step"} for line in metrics if "accuracy_before" in line] == [
        {"accuracy_before"},
        {"accuracy_before", "accuracy_after"},
    ]
    assert all(any(reason.startswith(f"valid.jsonl train row {number}") for reason in reasons) for number in missing)
    assert len(reasons) == n_rounds * len(missing)
    assert [event.n_skipped for event in events if isinstance(event, Finished)] == [len(reasons)]


def test_answers_stop_at_a_bad_row(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """With on_bad_row = "raise" such a row ends the run, named, before its first step."""
    rows, valid = write_rows(tmp_path, "rows"), write_rows(tmp_path, "valid", missing=(1,))
    recipe = make_recipe(
        checkpoint("qwen3_vl"), rows, tmp_path / "out", data__valid_path=str(valid), eval__answer_rows=2
    )
    with pytest.raises(SampleError, match=r"valid\.jsonl train row 1: cannot read the image"):
        run(recipe)


def test_no_row_to_answer(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Where none of the rows can be read there is no accuracy, and the run goes on to its end."""
    rows, valid = write_rows(tmp_path, "rows"), write_rows(tmp_path, "valid", missing=(0, 1))
    options = {"data__valid_path": str(valid), "eval__answer_rows": 2, "train__iters": 1}
    events = run(make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", data__on_bad_row="skip", **options))

    assert not [event for event in events if isinstance(event, Answered)]
    assert not [event for event in events if isinstance(event, Reported) and "accuracy_after" in event.metrics]
    assert isinstance(events[-1], Finished)
