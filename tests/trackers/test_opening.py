"""Trackers by their names, fed by the command and by loops of one's own."""

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import vlora
from tests.trackers.tracked import read_events, scalars
from vlora.cli.main import main
from vlora.errors import RecipeError
from vlora.recipe.checks import TRACKERS as NAMES
from vlora.trackers.opening import TRACKERS, open_trackers

CheckpointFactory = Callable[[str], Path]

pytest.importorskip("tensorboardX")


def make_recipe(folder: Path) -> vlora.Recipe:
    """Make a recipe with TensorBoard."""
    return vlora.parse_recipe(f'[data]\npath = "-"\n[output]\npath = "{folder}/out"\ntrackers = ["tensorboard"]')


def test_every_name_has_a_tracker() -> None:
    """Those that a recipe may have are those that there are."""
    assert list(TRACKERS) == list(NAMES)


def test_a_loop_of_ones_own(tmp_path: Path) -> None:
    """Names and values, and where they can be seen."""
    said: list[str] = []

    with vlora.open_trackers(make_recipe(tmp_path), say=said.append) as trackers:
        for step in (1, 2):
            trackers.log({"loss": 1 / step}, step)

    assert said == [f"tensorboard: {tmp_path}/out/tensorboard"]
    assert scalars(read_events(tmp_path / "out" / "tensorboard")) == [("loss", 1, 1.0), ("loss", 2, 0.5)]


def test_a_failure_is_a_warning(tmp_path: Path) -> None:
    """One, however many numbers come."""
    (tmp_path / "out").write_text("in the way")

    with warnings.catch_warnings(record=True) as told, open_trackers(make_recipe(tmp_path)) as trackers:
        warnings.simplefilter("always")
        trackers.log({"loss": 1.0}, 1)
        trackers.log({"loss": 1.0}, 2)

    assert [str(each.message).partition(" (")[0] for each in told] == [
        "the tensorboard log of this run is not written any more"
    ]


def test_a_missing_package_is_an_error_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setitem(sys.modules, "tensorboardX", None)

    with pytest.raises(RecipeError, match="python -m pip install tensorboardX"), open_trackers(make_recipe(tmp_path)):
        pass


def test_the_command_feeds_trackers(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run, and one that goes on with it, are one to TensorBoard; their numbers are those of metrics.jsonl."""
    typed = ["--model-path", str(checkpoint("qwen3_vl")), "--dataset", str(rows), "--output-path", str(tmp_path / "o")]
    typed += ["--set", 'output.trackers=["tensorboard"]', "--set", "train.steps_per_report=1"]

    assert main([*typed, "--iters", "2"]) == 0
    assert main([*typed, "--iters", "4", "--resume"]) == 0

    lines = [json.loads(line) for line in (tmp_path / "o" / "metrics.jsonl").read_text().splitlines()]
    found = scalars(read_events(tmp_path / "o" / "tensorboard"))
    losses = [(step, value) for name, step, value in found if name == "loss"]
    assert losses == [(line["step"], round(line["loss"], 4)) for line in lines if "loss" in line]
    assert [step for step, _ in losses] == [1, 2, 3, 4]
    assert json.loads((tmp_path / "o" / "training" / "trackers.json").read_text()) == {"tensorboard": "tensorboard"}
    assert capsys.readouterr().out.count("tensorboard: ") == 2


def test_programs_are_told_where_a_run_is_tracked(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an event like any other."""
    typed = ["--model-path", str(checkpoint("qwen3_vl")), "--dataset", str(rows), "--output-path", str(tmp_path / "o")]

    assert main(["--json", *typed, "--set", 'output.trackers=["tensorboard"]', "--iters", "1"]) == 0

    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"event": "Warned", "message": f"tensorboard: {tmp_path}/o/tensorboard"} in told


def test_what_an_earlier_run_has_logged_is_set_aside(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """With all else that it has left."""
    typed = ["--model-path", str(checkpoint("qwen3_vl")), "--dataset", str(rows), "--output-path", str(tmp_path / "o")]
    typed += ["--set", 'output.trackers=["tensorboard"]', "--iters", "1"]

    assert main(typed) == 0
    assert main(typed) == 0

    assert (tmp_path / "o" / "earlier-1" / "tensorboard").is_dir()
    assert (tmp_path / "o" / "earlier-1" / "training" / "trackers.json").is_file()
    assert len(list((tmp_path / "o" / "tensorboard").iterdir())) == 1


def test_a_tracker_that_fails_ends_no_training(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One note, and the adapter is there."""
    typed = ["--model-path", str(checkpoint("qwen3_vl")), "--dataset", str(rows), "--output-path", str(tmp_path / "o")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlora.trackers.tensorboard.TENSORBOARD_NAME", "metrics.jsonl")
        assert main([*typed, "--set", 'output.trackers=["tensorboard"]', "--iters", "2"]) == 0

    assert capsys.readouterr().out.count("the tensorboard log of this run is not written any more") == 1
    assert (tmp_path / "o" / "adapters.safetensors").is_file()


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ('["tb"]', "has 'tb', which is no tracker; did you mean 'tensorboard'?"),
        ('["W&B"]', "did you mean 'wandb'?"),
        ('["comet"]', "must be among tensorboard, trackio, wandb, mlflow"),
        ('["wandb", "wandb"]', "has 'wandb' twice"),
    ],
)
def test_names_are_checked(written: str, message: str) -> None:
    """Before anything is imported."""
    with pytest.raises(RecipeError) as raised:
        vlora.parse_recipe(f'[data]\npath = "-"\n[output]\ntrackers = {written}')

    assert message in str(raised.value)


def test_a_project_is_a_trackers() -> None:
    """Without one the key does nothing, and is refused."""
    with pytest.raises(RecipeError, match=r"output\.project: found 'x' without output\.trackers"):
        vlora.parse_recipe('[data]\npath = "-"\n[output]\nproject = "x"')
