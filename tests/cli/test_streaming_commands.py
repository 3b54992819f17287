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
from tests.data.streams import write_lines, write_parquet, write_shards
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


@pytest.fixture
def mixture_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the recipe of two streams, of which the first three rows of each have numbers and one is held out."""
    monkeypatch.setattr(stream_opening, "HEAD_ROWS", 3)
    shards, lines = write_shards(tmp_path / "shards", (3, 4)), write_lines(tmp_path / "lines", (2, 3))
    file = tmp_path / "recipe.toml"
    file.write_text(
        "[model]\npath = 'builtin:tiny-qwen3-vl'\n"
        f"[[data.sources]]\npath = {shards!r}\nweight = 3\n[[data.sources]]\npath = {lines!r}\nweight = 1\n"
        "[data]\nstreaming = true\nshuffle_buffer = 4\nsplit = 'train[1:]'\nvalid_split = 'train[:1]'\n"
        f"[train]\niters = 3\nsteps_per_report = 1\nbatch_size = 2\n[output]\npath = '{tmp_path / 'out'}/'\n"
    )
    return file


def test_a_mixture_of_streams_goes_through_every_command(
    mixture_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`inspect` and `plan` look at the first rows of each; the run says wanted shares, and what it learned of each."""

    def say(*arguments: str) -> str:
        assert main([*arguments]) == 0
        return " ".join(capsys.readouterr().out.split())

    assert "rows-0.tar row 1 (000001)" in say("inspect", str(mixture_file), "--rows", "0-0")
    assert "(6 rows of 2 streams)" in say("inspect", str(mixture_file), "--all")
    recipe = parse_recipe(mixture_file.read_text())
    assert find_longest_rows(recipe, answer_options(recipe, 0)).train_source == "the longest of the first 6 rows"
    said = say("train", str(mixture_file))
    assert "rows streamed from 4 files, 2 to validate on; 3 steps" in said
    assert "rows-*.tar: a stream; 75.0% of the rows" in said
    assert "rows-*.jsonl: a stream; 25.0% of the rows" in said
    assert "learned of each source:" in said
    assert "rows, its first epoch not over, " in said


def describe_sources(folder: Path, kind: str) -> str:
    """Write the rows of a run, and give the lines of its recipe that name them: a stream, or a mixture of two."""
    one = write_lines(folder / "rows", (7, 12, 4))
    if kind == "stream":
        return f"[data]\npath = {one!r}\n"
    two = write_parquet(folder / "table", (5, 4))
    return "".join(f"[[data.sources]]\npath = {path!r}\nweight = {weight}\n" for path, weight in ((one, 1), (two, 2)))


def start_run(folder: Path, name: str, sources: str, n_devices: int, size: int, *options: str) -> subprocess.Popen[str]:
    """Start a run of eight steps through the command."""
    given = (
        *("model.path=builtin:tiny-qwen3-vl", "data.streaming=true", "data.shuffle_buffer=6"),
        *("data.train_on_completions=true", "train.iters=8", "train.steps_per_report=1", "output.report=false"),
        *(f"output.path={folder / name}/", f"train.batch_size={size}", "lora.dropout=0.0", "train.steps_per_save=1"),
    )
    recipe = folder / "recipe.toml"
    recipe.write_text(sources)
    sets = [part for each in given for part in ("--set", each)]
    command = [sys.executable, "-m", "vlora", str(recipe), "--devices", str(n_devices), *sets, *options]
    return subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(Path.cwd())}, stdout=subprocess.PIPE, text=True
    )


def read_losses(folder: Path) -> list[float]:
    """Read the losses of a run."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stream", "mixture"])
def test_two_devices_share_streams(tmp_path: Path, kind: str) -> None:
    """Losses are those of one device and twice the batch, and a run that goes on equals one that was not stopped."""
    sources = describe_sources(tmp_path, kind)

    def train(name: str, n_devices: int, size: int, *options: str) -> list[float]:
        process = start_run(tmp_path, name, sources, n_devices, size, *options)
        process.communicate()
        assert process.returncode == 0
        return read_losses(tmp_path / name)

    two = train("two", 2, 2)
    train("stopped", 2, 2, "--set", "train.iters=3")

    assert train("one", 1, 4) == pytest.approx(two, rel=1e-5)
    assert train("stopped", 2, 2, "--resume") == two
    assert (tmp_path / "stopped/adapters.safetensors").read_bytes() == (
        tmp_path / "two/adapters.safetensors"
    ).read_bytes()


@pytest.mark.slow
def test_a_killed_run_over_mixed_streams_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """Wherever it was killed: within an epoch of one source, and behind several of another."""
    sources = describe_sources(tmp_path, "mixture")
    start_run(tmp_path, "whole", sources, 1, 3).communicate()
    for n_steps in (2, 6):
        killed = start_run(tmp_path, f"killed{n_steps}", sources, 1, 3)
        assert killed.stdout is not None
        for line in killed.stdout:
            if f"step {n_steps}/8" in " ".join(line.split()):
                break
        killed.kill()
        killed.communicate()
        resumed = start_run(tmp_path, f"killed{n_steps}", sources, 1, 3, "--resume")
        resumed.communicate()

        assert resumed.returncode == 0
        assert read_losses(tmp_path / f"killed{n_steps}") == read_losses(tmp_path / "whole")
        assert (tmp_path / f"killed{n_steps}/adapters.safetensors").read_bytes() == (
            tmp_path / "whole/adapters.safetensors"
        ).read_bytes()
