"""The command that trains: what it prints and writes, and how it ends."""

import argparse
import json
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import complaint
from vlora import lora
from vlora.cli.main import main
from vlora.events import Event, Reported, Started, StepReport
from vlora.output.paths import METRICS_NAME, RECIPE_NAME
from vlora.run.fit import fit

CheckpointFactory = Callable[[str], Path]
LASTING = {"step", "loss", "valid_loss", "valid_tokens", "accuracy_before", "accuracy_after", "eval_rows"}
"""Names of metrics that are the same whenever they are measured."""


def interrupt_after(step: int, patch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C when a step has been reported."""
    send_when(lambda event: isinstance(event, StepReport) and event.step == step, patch, signal.SIGINT)


def send_when(is_moment: Callable[[Event], bool], patch: pytest.MonkeyPatch, number: int) -> None:
    """Send a signal behind certain events."""

    def interrupted(*args: Any, **kwargs: Any) -> Iterator[Event]:
        for event in fit(*args, **kwargs):
            yield event
            if is_moment(event):
                signal.raise_signal(number)

    # Where the command line finds it when it needs it.
    patch.setattr("vlora.run.fit.fit", interrupted)


@pytest.mark.parametrize("entry", ["command line", "program"])
def test_interrupted_run_goes_on(
    entry: str, checkpoint: CheckpointFactory, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends a run after its step, saved, and the command that is printed takes the remaining steps."""
    out = tmp_path / "the out"
    options = {"model_path": str(checkpoint("qwen3_vl")), "dataset": str(rows), "iters": 3, "output_path": str(out)}
    typed = [word for name, value in options.items() for word in ("--" + name.replace("_", "-"), str(value))]
    handler = signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch:
        # The second step runs by then.
        interrupt_after(1, patch)
        if entry == "program":
            lora.main(argparse.Namespace(**options))
        else:
            assert main([*typed, "--set", "train.steps_per_report=1"]) == 130
    printed = capsys.readouterr().out

    assert "stopped after step 2 of 3" in printed
    assert (out / "adapters.safetensors").is_file()
    assert signal.getsignal(signal.SIGINT) is handler
    command = shlex.split(next(line for line in printed.splitlines() if "--resume" in line))
    assert command[:3] == ["python", "-m", "vlora"]
    assert main(command[3:]) == 0
    assert "3 steps, going on after step 2" in capsys.readouterr().out
    assert [json.loads(line)["step"] for line in (out / METRICS_NAME).read_text().splitlines()][-1] == 3


@pytest.mark.parametrize(
    ("name", "status", "last", "n_answers", "without"),
    [
        ("SIGTERM", 143, "loss", 2, "validation and answers after training"),
        ("SIGTERM", 143, "valid_loss", 2, "answers after training"),
        ("SIGINT", 130, "loss", 0, "validation"),
    ],
)
def test_a_signal_behind_the_last_step(
    name: str,
    status: int,
    last: str,
    n_answers: int,
    without: str,
    checkpoint: CheckpointFactory,
    rows: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What it leaves off is done by going on, so that a scheduler has to: all of it is then as it would have been."""
    keys = {"data.valid_path": rows, "eval.answer_rows": n_answers, "eval.max_new_tokens": 2, "train.iters": 1}
    sets = [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]
    sets += ["--model-path", str(checkpoint("qwen3_vl")), "--dataset", str(rows)]

    def read(name: str) -> tuple[bytes, list[dict[str, float]]]:
        out = tmp_path / name
        lines = [json.loads(line) for line in (out / METRICS_NAME).read_text().splitlines()]
        timeless = [{key: line[key] for key in line if key in LASTING} for line in lines]
        # Every start writes a line of its own times.
        return (out / "adapters.safetensors").read_bytes(), [line for line in timeless if len(line) > 1]

    def is_last(event: Event) -> bool:
        return isinstance(event, Reported) and event.metrics["step"] == 1 and last in event.metrics

    with pytest.MonkeyPatch.context() as patch:
        send_when(is_last, patch, getattr(signal, name))
        assert main([*sets, "--output-path", str(tmp_path / "left")]) == status
    printed = " ".join(capsys.readouterr().out.split())
    assert f"stopped after step 1 of 1, without {without}; this goes on:" in printed
    left = read("left")
    assert main([*sets, "--output-path", str(tmp_path / "left"), "--resume"]) == 0
    assert main([*sets, "--output-path", str(tmp_path / "whole")]) == 0

    assert left != read("left") == read("whole")


def test_a_signal_when_all_is_done(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """A run with nothing behind its last step is complete, also if it is asked to end there."""
    out = tmp_path / "out"
    options = ["--model-path", str(checkpoint("qwen3_vl")), "--dataset", str(rows), "--output-path", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        send_when(lambda event: isinstance(event, StepReport) and event.step == 2, patch, signal.SIGTERM)
        assert main([*options, "--set", "train.iters=2"]) == 0
    assert (out / "adapters.safetensors").is_file()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_the_first_step_ends_at_once(
    number: signal.Signals,
    status: int,
    checkpoint: CheckpointFactory,
    rows: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """There is nothing to save yet; afterwards signals are heard as before."""
    taken: list[Event] = []

    def signalled(*args: Any, **kwargs: Any) -> Iterator[Event]:
        for event in fit(*args, **kwargs):
            taken.append(event)
            yield event
            if isinstance(event, Started):
                signal.raise_signal(number)

    handler = signal.getsignal(number)
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlora.run.fit.fit", signalled)
        options = ["--model-path", str(checkpoint("qwen3_vl")), "--dataset", str(rows), "--output-path", str(out)]
        assert main(options) == status

    assert isinstance(taken[-1], Started)
    assert f"ended by {number.name}" in capsys.readouterr().out
    assert signal.getsignal(number) is handler
    assert not (out / "adapters.safetensors").exists()


def test_a_run_with_other_releases_says_so(
    checkpoint: CheckpointFactory,
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line, before the model is loaded."""
    monkeypatch.setattr("vlora.models.proven_versions.PROVEN", {"mlx": "0.1", "mlx-vlm": "0.2"})
    options = ["--model-path", str(checkpoint("qwen3_vl")), "--dataset", str(rows), "--iters", "1"]

    assert main([*options, "--output-path", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    (first,) = [line for line in lines if line.startswith("note vlora was not proved with mlx ")]
    assert ", but with mlx 0.1, mlx-vlm 0.2; " in " ".join(" ".join(lines).split())
    assert lines.index(first) < lines.index("loading the model ...")


def test_written_recipe_runs(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """The recipe that a run writes beside its result is a recipe that runs."""
    out = tmp_path / "out"
    options = ["--model-path", str(checkpoint("qwen3_vl")), "--dataset", str(rows), "--iters", "1"]

    assert main([*options, "--output-path", str(out)]) == 0
    assert main([str(out / RECIPE_NAME), "--output-path", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "adapters.safetensors").is_file()


def test_an_output_that_cannot_be_written(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An output below a file ends with status 2, the file's name and the key to look at."""
    (tmp_path / "file").write_text("")
    options = ["--model-path", str(checkpoint("qwen3_vl")), "--dataset", str(rows), "--iters", "1"]
    message = complaint([*options, "--output-path", str(tmp_path / "file" / "out")], capsys)

    for word in (str(tmp_path / "file"), "cannot be read or written", "output.path"):
        assert word in message


def test_a_bad_row_ends_the_run(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row that cannot be learned from ends a run with status 2 and its number, unless it is to be skipped."""
    (tmp_path / "b.png").unlink()
    options = ["--model-path", str(checkpoint("qwen3_vl")), "--dataset", str(rows), "--iters", "1"]
    options += ["--output-path", str(tmp_path / "out")]

    message = complaint(options, capsys)
    assert "rows.jsonl train row 1: line 2 of rows.jsonl: cannot read the image" in message
    assert not (tmp_path / "out" / "adapters.safetensors").exists()

    assert main([*options, "--set", "data.on_bad_row=skip"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "skipped rows.jsonl train row 1: line 2 of rows.jsonl: cannot read the image" in printed
    assert "rows skipped, in all epochs together: 1;" in printed


def test_resume_or_start(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One command begins a run and goes on with it; a run of another recipe is refused, and set aside by none."""
    out = tmp_path / "out"
    options = ["--model-path", str(checkpoint("qwen3_vl")), "--dataset", str(rows), "--output-path", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(1, patch)
        assert main([*options, "--iters", "3", "--resume-or-start", "--set", "train.steps_per_report=1"]) == 130
    printed = capsys.readouterr().out
    assert "3 steps\n" in printed
    assert printed.splitlines()[-1].split()[-1] == "--resume"
    assert main([*options, "--iters", "3", "--resume-or-start"]) == 0
    assert "3 steps, going on after step 2" in capsys.readouterr().out

    assert "train.seed: 0 then, 1 now" in complaint([*options, "--resume-or-start", "--set", "train.seed=1"], capsys)
    assert "not allowed with argument" in complaint([*options, "--resume-or-start", "--resume"], capsys)
    assert not (out / "earlier-1").exists()


def test_options_to_validate(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The older options hold rows out; how often to validate has no effect without any, and a run says so."""
    options = ["--model-path", str(checkpoint("qwen3_vl")), "--dataset", str(rows), "--iters", "1"]
    options += ["--output-path", str(tmp_path / "out"), "--steps-per-eval", "1"]

    assert main(options) == 0
    assert "--steps-per-eval has no effect" in capsys.readouterr().out
    assert main([*options, "--valid-fraction", "0.25"]) == 0
    printed = capsys.readouterr().out
    assert "has no effect" not in printed
    assert "3 rows, 1 to validate on" in printed
    assert main([*options, "--valid-dataset", str(rows)]) == 0
    assert "4 rows, 4 to validate on" in capsys.readouterr().out
