"""The command that compares runs: its lines fit the screen, and say what there is to say in words and letters."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import complaint
from tests.report.run.test_run_files import write_run
from tests.report.run.test_run_page import make_run
from vlora.cli.compare import write_comparison
from vlora.cli.main import main
from vlora.report.run.comparison import compare_runs


def make_runs(folder: Path, n_runs: int) -> list[str]:
    """Make runs; the second one has a long value."""
    for number in range(n_runs):
        keys: dict[str, Any] = {"optim.learning_rate": 1e-4 * (number + 1)}
        keys["data.system"] = "word " * 60 if number == 1 else "-"
        make_run(folder / f"run-{number}", 100 + number * 10, **keys)
    return [str(folder / f"run-{number}") for number in range(n_runs)]


@pytest.mark.parametrize("width", [79, 99, 40])
@pytest.mark.parametrize("n_runs", [2, 3, 7])
def test_lines_fit_the_screen(n_runs: int, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With any number of runs; each has a letter, and all its numbers."""
    make_runs(tmp_path, n_runs)
    monkeypatch.chdir(tmp_path)
    lines = list(write_comparison(compare_runs([f"run-{number}" for number in range(n_runs)]), width))

    assert max(map(len, lines)) <= width
    assert [line for line in lines if line.startswith("A ")] == ["A  run-0"]
    cells = " ".join(lines).split()
    assert all(f"{100 + number * 10}" in cells for number in range(n_runs))
    assert cells.count("word") == 59


def test_the_better_one_is_marked(tmp_path: Path) -> None:
    """By a star, not by a colour."""
    lines = list(write_comparison(compare_runs(make_runs(tmp_path, 2)), 79))

    [time] = [line for line in lines if line.startswith("time ")]
    assert time.split() == ["time", "1", "min", "40", "s", "*", "1", "min", "50", "s"]
    assert any("Validation loss" in line for line in lines)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints the comparison, and writes the page where it was told to."""
    assert main(["compare", *make_runs(tmp_path, 2), "--html", str(tmp_path / "out" / "c.html")]) == 0

    printed = capsys.readouterr().out
    assert "recipe keys that differ" in printed
    page = tmp_path / "out" / "c.html"
    assert "2 runs compared" in page.read_text()
    assert max(map(len, printed.replace(str(tmp_path), "").splitlines())) <= 79

    assert main(["compare", *make_runs(tmp_path, 2), "--html", str(page)]) == 0
    page.write_text("<!DOCTYPE html><p>somebody's")
    assert main(["compare", *make_runs(tmp_path, 2), "--html", str(page)]) == 2
    assert "was not written by this command" in capsys.readouterr().err
    assert page.read_text() == "<!DOCTYPE html><p>somebody's"


def test_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One object has the tables, with numbers that need not be read out of texts."""
    folders = make_runs(tmp_path, 2)
    assert main(["compare", *folders, "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert (found["event"], found["runs"]) == ("Comparison", folders)
    assert all(len(row["cells"]) == 2 for row in (*found["numbers"], *found["recipe"]))
    values = {row["name"]: row["values"] for row in found["numbers"]}
    losses = [json.loads(line).get("loss") for line in (Path(folders[0]) / "metrics.jsonl").read_text().splitlines()]
    assert values["last train loss"][0] == [loss for loss in losses if loss is not None][-1]
    assert all(isinstance(value, int) for value in values["steps"])


def test_equal_recipes_and_damaged_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Are said."""
    for name in "ab":
        write_run(tmp_path / name, {"step": 1, "loss": 2.0}, '{"step": 2, "lo', end="")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0

    printed = capsys.readouterr().out
    assert "the recipes differ in output.path at most" in printed
    assert printed.count("(1 damaged line passed over)") == 2


def test_what_is_no_run_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And a status that says that the user can mend it."""
    said = complaint(["compare", str(tmp_path), str(tmp_path / "b")], capsys)

    assert said.startswith(f"vlora: {tmp_path}: there is no metrics.jsonl")
