"""Answers and validations in the course of a run: what cannot be answered or is left off ends no run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.runs import losses, make_recipe, run
from vlora import fit
from vlora.cli.screen import Screen
from vlora.cli.train import train
from vlora.errors import OutOfMemoryError
from vlora.estimate import shortage
from vlora.events import Event, Finished, Reported, StepReport, Warned
from vlora.models.generation import answering, upstream
from vlora.output.paths import METRICS_NAME

CheckpointFactory = Callable[[str], Path]


@pytest.mark.parametrize("error", [IndexError("list index out of range"), TypeError("no\n padding"), ValueError()])
def test_what_cannot_be_answered_ends_no_run(
    error: Exception,
    checkpoint: CheckpointFactory,
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever a model's code raises is a note, the run goes on, and its end shows no command that fails."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(answering, "decode", fail)
    monkeypatch.setattr(upstream, "prepare_inputs", fail)
    options = {"data__valid_path": str(rows), "eval__answer_rows": 2, "train__iters": 1}
    events = run(make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", **options))
    said = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
    notes = [event.message for event in events if isinstance(event, Warned)]

    assert notes == [
        f"answers {when} training: the model cannot answer: {said}; accuracy left out" for when in ("before", "after")
    ]
    assert not [e for e in events if isinstance(e, Reported) and {"accuracy_before", "accuracy_after"} & set(e.metrics)]
    assert len(losses(events)) == 1
    assert isinstance(events[-1], Finished)
    assert events[-1].unasked == f"cannot be asked through mlx-vlm: {said}"
    assert train(make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "again", **options), Screen(width=400)) == 0
    shown = capsys.readouterr().out
    assert "ask it" not in shown
    assert f"the trained model cannot be asked through mlx-vlm: {said}\n" in shown


def test_no_memory_for_an_answer_is_said(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is no fault of the generation's: it ends the run, with what would need less."""

    def fail(*_: Any, **__: Any) -> None:
        msg = "[malloc] Unable to allocate 12 bytes."
        raise RuntimeError(msg)

    monkeypatch.setattr(answering, "decode", fail)
    monkeypatch.setattr(shortage, "PLANNING_S", 0.0)
    options = {"data__valid_path": str(rows), "eval__answer_rows": 1, "train__iters": 1}
    with pytest.raises(OutOfMemoryError, match=r"answering rows before training: .*eval\.max_new_tokens"):
        run(make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", **options))


def test_a_run_that_is_asked_to_end_leaves_validation_and_answers(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path
) -> None:
    """Where they are, without a number of some of the rows; what was learned is saved."""
    recipe = make_recipe(
        checkpoint("qwen3_vl"), rows, tmp_path / "out", data__valid_path=str(rows), eval__answer_rows=2, train__iters=2
    )
    events: list[Event] = []
    # The last step is over, and its validation is next.
    run_to = fit(recipe, should_stop=lambda: any(isinstance(event, StepReport) and event.step == 2 for event in events))
    events.extend(run_to)
    metrics = [event.metrics for event in events if isinstance(event, Reported)]

    assert [found["step"] for found in metrics if "valid_loss" in found] == [0]
    assert not any("accuracy_after" in found for found in metrics)
    assert any(isinstance(event, Warned) and "stopped after 0 of 2" in event.message for event in events)
    assert isinstance(events[-1], Finished)
    assert events[-1].left_off == ("validation", "answers after training")
    assert (tmp_path / "out" / "adapters.safetensors").is_file()


def test_answers_can_be_asked_for_on_resuming(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that began without answers can end with them; the command line shows their accuracy."""
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", data__valid_path=str(rows))
    run(recipe, should_stop=lambda: True)
    asking = attrs.evolve(recipe, eval=attrs.evolve(recipe.eval, answer_rows=2, max_new_tokens=2))
    status = train(asking, Screen(), resume=True)
    last = json.loads((tmp_path / "out" / METRICS_NAME).read_text().splitlines()[-1])

    assert status == 0
    assert set(last) == {"step", "accuracy_after", "unix_time"}
    assert "accuracy after training" in capsys.readouterr().out
