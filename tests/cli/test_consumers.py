"""What takes a run's events besides the screen gets all of them, and whatever is wrong with it ends no training."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from vlora.cli import consumers
from vlora.cli.consumers import open_consumers
from vlora.cli.main import main
from vlora.evaluation.prediction import read_predictions
from vlora.events import Event, Warned
from vlora.output.paths import DERIVED_NAMES, PREDICTIONS_NAME, REPORT_NAME
from vlora.recipe.parse import parse_recipe
from vlora.trackers.guard import Consumer

CheckpointFactory = Callable[[str], Path]
RECIPE = parse_recipe('[data]\npath = "-"')
EVENTS: list[Event] = [Warned(message=str(number)) for number in range(3)]


def make(found: list[str], name: str, fails_at: str | None = None) -> AbstractContextManager[Consumer]:
    """Make a consumer that notes what it is told, and may fail at an event or at its end."""

    @contextmanager
    def opened() -> Iterator[Consumer]:
        def take(event: Event) -> None:
            assert isinstance(event, Warned)
            if event.message == fails_at:
                msg = "disk full"
                raise OSError(msg)
            found.append(f"{name} {event.message}")

        try:
            yield take
        finally:
            if fails_at == "end":
                raise KeyError
            found.append(f"{name} ended")

    return opened()


@pytest.mark.parametrize(
    ("fails_at", "warned", "left"),
    [
        (None, [], ["a 0", "a 1", "a 2", "a ended"]),
        ("1", ["a of this run is not written any more (OSError: disk full); training goes on"], ["a 0", "a ended"]),
        ("end", ["a of this run is not written any more (KeyError); training goes on"], ["a 0", "a 1", "a 2"]),
    ],
)
def test_one_that_fails_is_warned_of_once(
    fails_at: str | None, warned: list[str], left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets no further event and is closed; the others go on."""
    found: list[str] = []
    heard: list[str] = []
    made = [("a", make(found, "a", fails_at)), ("b", make(found, "b"))]
    monkeypatch.setattr(consumers, "_make_consumers", lambda *_: iter(made))

    with open_consumers(RECIPE, heard.append) as consume:
        for event in EVENTS:
            consume(event)

    assert heard == warned
    assert [line for line in found if line.startswith("a")] == left
    assert [line for line in found if line.startswith("b")] == ["b 0", "b 1", "b 2", "b ended"]


def test_all_are_closed_when_a_run_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the run is the one that is told."""
    found: list[str] = []
    monkeypatch.setattr(consumers, "_make_consumers", lambda *_: iter([("a", make(found, "a"))]))

    def run() -> None:
        with open_consumers(RECIPE, found.append):
            msg = "of the run"
            raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match="of the run"):
        run()

    assert found == ["a ended"]


@pytest.mark.parametrize("is_wanted", [True, False])
def test_a_run_draws_its_losses(is_wanted: bool, checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """Beside its metrics, unless the recipe says no."""
    typed = ["--model-path", str(checkpoint("qwen3_vl")), "--dataset", str(rows), "--iters", "2"]
    out = tmp_path / "out"
    assert main([*typed, "--output-path", str(out), "--set", f"output.report={str(is_wanted).lower()}"]) == 0

    assert [(out / name).is_file() for name in DERIVED_NAMES] == [is_wanted, is_wanted]


def test_a_report_of_a_run_that_went_on(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """It has the reports and the answers of both processes, with the pictures of the rows that were held out."""
    out = tmp_path / "out"
    typed = ["--model-path", str(checkpoint("qwen3_vl")), "--dataset", str(rows), "--output-path", str(out)]
    for key in ("data.valid_fraction=0.5", "eval.answer_rows=2", "eval.max_new_tokens=2", "train.steps_per_report=1"):
        typed += ["--set", key]
    assert main([*typed, "--iters", "2"]) == 0
    assert main([*typed, "--iters", "3", "--resume"]) == 0

    page = (out / REPORT_NAME).read_text()
    assert "Training is over." in page
    assert re.search(r"went on behind step</bdi></dt><dd><bdi>2<", page)
    assert page.count('aria-labelledby="loss-title') == 1
    assert re.search(r"train, per report: 3 points", page)
    for said in ("before training", "after step 2", "after step 3"):
        assert page.count(said) == 2
    asked = {prediction.row: prediction.images for prediction, _ in read_predictions(out / PREDICTIONS_NAME)}
    assert page.count("<img ") == sum(map(len, asked.values())) > 0


def test_a_report_that_cannot_be_written_ends_no_training(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One warning, and the adapter is there."""
    out = tmp_path / "out"
    typed = ["--model-path", str(checkpoint("qwen3_vl")), "--dataset", str(rows), "--iters", "2"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlora.report.run.live.REPORT_NAME", "nowhere/\0")
        assert main([*typed, "--output-path", str(out)]) == 0

    printed = capsys.readouterr().out
    assert printed.count("the report of this run is not written any more (ValueError: ") == 1
    assert (out / "adapters.safetensors").is_file()
