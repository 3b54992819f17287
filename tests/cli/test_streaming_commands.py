"""Commands meet recipes that stream their rows: they look at the first rows and say so, or say one sentence."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands import complaint
from tests.data.streams import write_lines, write_shards
from tests.runs import make_recipe
from vlora import load_data, parse_recipe
from vlora.cli.main import main
from vlora.data import stream_opening
from vlora.errors import RecipeError
from vlora.estimate.longest import find_longest_rows
from vlora.models import answer_options
from vlora.recipe.parse import dump_recipe

CheckpointFactory = Callable[[str], Path]


@pytest.fixture
def recipe_file(checkpoint: CheckpointFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the recipe of a stream of seven rows, of which the first four have numbers and two are held out."""
    monkeypatch.setattr(stream_opening, "HEAD_ROWS", 4)
    shards = write_shards(tmp_path / "shards", (3, 4))
    keys: dict[str, Any] = {"data__streaming": True, "data__split": "train[2:]", "data__valid_split": "train[:2]"}
    recipe = make_recipe(checkpoint("llava"), Path(shards), tmp_path / "out", **keys)
    file = tmp_path / "recipe.toml"
    file.write_text(dump_recipe(recipe))
    return file


def test_inspect_shows_and_counts_the_first_rows(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows have the names that messages have; a number beyond the first rows is refused."""
    assert main(["inspect", str(recipe_file), "--rows", "1-2"]) == 0
    shown = capsys.readouterr().out
    assert "rows-1.tar row 0 (000003)" in shown
    assert main(["inspect", str(recipe_file), "--all"]) == 0
    assert "the beginning of rows-*.tar (4 rows of a stream)" in " ".join(capsys.readouterr().out.split())
    error = complaint(["inspect", str(recipe_file), "--rows", "9,"], capsys)
    assert "the beginning of rows-*.tar (4 rows of a stream) has no row 9" in " ".join(error.split())


def test_plan_looks_at_the_first_rows(recipe_file: Path) -> None:
    """And says that it does."""
    recipe = parse_recipe(recipe_file.read_text())
    found = find_longest_rows(recipe, answer_options(recipe, 0))

    assert found.train_source == "the longest of the first 4 rows"
    assert found.valid_source == "the longest of all 2 rows"
    assert not found.unread


def test_eval_answers_held_out_rows(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those at the beginning of the stream."""
    assert main(["eval", str(recipe_file), "--base", "--set", "eval.max_new_tokens=1"]) == 0
    assert "2 of" in capsys.readouterr().out


def test_init_and_own_loops_say_one_sentence(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What needs all rows, or rows by number, does not begin."""
    shards = recipe_file.with_name("shards") / "rows-0.tar"
    assert "set data.streaming and train.iters" in " ".join(complaint(["init", str(shards)], capsys).split())
    with pytest.raises(RecipeError, match=r"data\.streaming: found true, and load_data gives rows by their numbers"):
        load_data(parse_recipe(recipe_file.read_text()))


@pytest.mark.slow
def test_two_devices_share_a_stream(tmp_path: Path) -> None:
    """Losses are those of one device and twice the batch, and a run that goes on equals one that was not stopped."""
    rows = write_lines(tmp_path / "rows", (7, 12, 4))

    def train(name: str, n_devices: int, size: int, *sets: str, resume: bool = False) -> list[float]:
        given = (
            *("model.path=builtin:tiny-qwen3-vl", f"data.path={rows}", "data.streaming=true", "data.shuffle_buffer=6"),
            *("data.train_on_completions=true", "train.iters=8", "train.steps_per_report=1", "output.report=false"),
            *(f"output.path={tmp_path / name}/", f"train.batch_size={size}", "lora.dropout=0.0", *sets),
        )
        recipe = tmp_path / "recipe.toml"
        recipe.write_text("")
        options = [part for each in given for part in ("--set", each)]
        command = [sys.executable, "-m", "vlora", str(recipe), "--devices", str(n_devices), *options]
        done = subprocess.run(
            [*command, *(["--resume"] if resume else [])],
            check=False,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )
        assert done.returncode == 0
        lines = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        return [line["loss"] for line in lines if "loss" in line]

    two = train("two", 2, 2)
    train("stopped", 2, 2, "train.iters=3")

    assert train("one", 1, 4) == pytest.approx(two, rel=1e-5)
    assert train("stopped", 2, 2, resume=True) == two
    assert (tmp_path / "stopped/adapters.safetensors").read_bytes() == (
        tmp_path / "two/adapters.safetensors"
    ).read_bytes()
