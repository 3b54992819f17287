"""The command line: the errors of all commands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands import complaint, exit_code
from vlora import events
from vlora.cli.main import COMMANDS, main
from vlora.errors import RecipeError, VloraError

CheckpointFactory = Callable[[str], Path]


@pytest.mark.parametrize("command", [[], ["inspect"]])
def test_missing_data_set(
    command: list[str], checkpoint: CheckpointFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A data set that is not there ends with status 2 and its path."""
    options = ["--model-path", str(checkpoint("qwen3_vl")), "--output-path", str(tmp_path / "out")]
    message = complaint([*command, "--dataset", str(tmp_path / "none.jsonl"), *options], capsys)

    assert f"data.path: cannot read {str(tmp_path / 'none.jsonl')!r}" in message


def test_errors_are_of_one_kind() -> None:
    """What the command line catches is what the library raises."""
    assert issubclass(RecipeError, VloraError)
    assert issubclass(VloraError, ValueError)


@pytest.mark.parametrize("words", [["--help"], ["-h"]])
def test_the_commands_are_listed_on_one_screen(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Every command with what it does, in 24 lines of 79 columns."""
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()

    assert len(lines) <= 24
    assert max(map(len, lines)) <= 79
    assert [line.split()[0] for line in lines if line.startswith("  ") and line.split()[0] in COMMANDS] == [*COMMANDS]


def test_options_of_all_commands_may_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    """`--json init` is `init --json`."""
    assert main(["--json", "init"]) == 0
    first = capsys.readouterr().out
    assert main(["init", "--json"]) == 0

    assert capsys.readouterr().out == first
    assert {json.loads(line)["event"] for line in first.splitlines()} == {"PackagedRecipe"}


def run_options(checkpoint: CheckpointFactory, rows: Path, out: Path) -> list[str]:
    """Give the options of a run of two steps."""
    options = ["--model-path", str(checkpoint("qwen3_vl")), "--dataset", str(rows), "--output-path", str(out)]
    return [*options, "--iters", "2", "--valid-fraction", "0.25", "--set", "train.steps_per_report=1"]


def test_a_run_for_programs(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With `--json` every line is an event, under the names of `vlora.events` and their fields; the last is the end."""
    assert main(["train", *run_options(checkpoint, rows, tmp_path / "out"), "--json"]) == 0
    found: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = [event["event"] for event in found]

    assert all(hasattr(events, name) for name in names)
    assert {"Started", "StepReport", "Reported", "Saved", "Finished"} <= {*names}
    assert [event["step"] for event in found if event["event"] == "StepReport"] == [1, 2]
    assert (names[-1], found[-1]["step"], found[-1]["n_steps"]) == ("Finished", 2, 2)
    assert Path(found[-1]["adapter"]).exists()
    started = found[names.index("Started")]
    assert (started["n_rows"], started["n_valid_rows"], started["device"]["kind"]) == (3, 1, "cpu")
    assert "held_out" not in started


def test_a_quiet_run(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With `--quiet` the end is all that is printed, and an error all the same."""
    options = run_options(checkpoint, rows, tmp_path / "out")
    assert main([*options, "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert not [line for line in lines if line.startswith(("step", "device", "saved"))]
    assert lines[-2] == "ask it:"
    assert main([*options, "--quiet", "--dataset", "none.jsonl"]) == 2
    assert "none.jsonl" in capsys.readouterr().err


def test_errors_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    """They stand in the output, too."""
    assert main(["plan", "missing.toml", "--json"]) == 2
    printed = capsys.readouterr()
    error = json.loads(printed.out)

    assert (error["event"], error["status"]) == ("Error", 2)
    assert printed.err == f"vlora: {error['message']}\n"


def test_complaints_about_options_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    """They are errors like any other, and stand below the usage for people."""
    assert exit_code(["plan", "--json", "--nonsense"]) == 2
    printed = capsys.readouterr()
    error = json.loads(printed.out)

    assert (error["event"], error["status"]) == ("Error", 2)
    assert "--nonsense" in error["message"]
    assert printed.err.endswith(f"error: {error['message']}\n")


@pytest.mark.parametrize(("word", "meant"), [("inspct", "inspect"), ("evall", "eval"), ("compair", "compare")])
def test_misspelt_commands(word: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command that was meant is named, and the word is not taken for a recipe."""
    assert f"found {word!r}, which is no command and no file; did you mean {meant!r}?" in complaint([word, "a"], capsys)


def test_recipes_that_are_called_like_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is there is read."""
    recipe = tmp_path / "plam"
    recipe.write_text("[data]\n")

    assert "data.path" in complaint([str(recipe)], capsys)
