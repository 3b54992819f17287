"""A run's folder is read whatever state it is in: under way, gone on with, damaged, of an older vlora."""

import json
from pathlib import Path
from typing import Any

import pytest

from vlora.recipe.parse import dump_recipe, parse_recipe
from vlora.report.run.run_files import RunError, Series, read_run


def write_run(folder: Path, *lines: Any, end: str = "\n") -> Path:
    """Write a run's metrics; strings as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "metrics.jsonl").write_text("\n".join(texts) + end)
    return folder


START = {"step": 0, "device": "cpu", "device_name": "a chip", "device_memory_gb": 8.0, "unix_time": 1.0}
REPORT = {"step": 10, "loss": 1.5, "running_loss": 2.0, "cut_rows": 0, "cut_row_names": "a, b", "seconds": 3.0}


def test_numbers_over_steps(tmp_path: Path) -> None:
    """Each number of a line is a series of its own; texts are none, and a line of the device is no report."""
    run = read_run(
        write_run(tmp_path, START, {"step": 0, "valid_loss": 3.0}, REPORT, {**REPORT, "step": 20, "loss": 1})
    )

    assert run["loss"] == Series((10, 20), (1.5, 1.0))
    assert run["valid_loss"] == Series((0,), (3.0,))
    assert run["nothing"] == Series()
    assert run["nothing"].median is None
    assert Series((1, 2, 3), (1.0, 90.0, 2.0)).median == 2
    assert "cut_row_names" not in run.series
    assert "device_memory_gb" not in run.series
    assert (run.device, run.step, run.resumed, run.n_damaged) == ("cpu, a chip", 20, (), 0)


def test_a_run_that_went_on(tmp_path: Path) -> None:
    """It says behind which steps; what was reported twice stands once, as it was reported last."""
    again = {**START, "step": 10, "device": "metal"}
    run = read_run(write_run(tmp_path, START, REPORT, {**REPORT, "step": 20, "loss": 9}, again, {**REPORT, "step": 20}))

    assert run.resumed == (10,)
    assert run.device == "metal, a chip"
    assert run["loss"] == Series((10, 20), (1.5, 1.5))


@pytest.mark.parametrize(
    "bad", ['{"step": 20, "lo', "", "[]", "7", '{"loss": 2}', '{"step": "x"}', "[" * 100_000, "\x00"]
)
def test_a_damaged_line_is_passed_over(bad: str, tmp_path: Path) -> None:
    """Others are read; the last one of a run under way may be a part of one."""
    for lines in ([REPORT, bad], [bad, REPORT]):
        run = read_run(write_run(tmp_path, *lines, end=""))

        assert run["loss"] == Series((10,), (1.5,))
        assert run.n_damaged == (bad != "" or lines[0] == "")


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    """A loss that is not finite, and what is true or false."""
    run = read_run(
        write_run(tmp_path, '{"step": 1, "loss": NaN, "running_loss": Infinity, "is": true, "n": null, "x": 1}')
    )

    assert dict(run.series) == {"x": Series((1,), (1.0,))}


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """A line of them is damaged, and no other."""
    write_run(tmp_path, REPORT)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b"\xff\xfe\x00\n" + json.dumps({**REPORT, "step": 20}).encode())

    assert read_run(tmp_path)["loss"].steps == (10, 20)


@pytest.mark.parametrize(
    "name", ["", "adapters.safetensors", "0000010_adapters.safetensors", "metrics.jsonl", "notes.txt"]
)
def test_runs_are_found_by_their_files(name: str, tmp_path: Path) -> None:
    """The folder itself, an adapter or another file in it."""
    folder = write_run(tmp_path / "run", REPORT)
    (folder / "notes.txt").write_text("")
    (folder / "adapters.safetensors").write_text("")

    assert read_run(folder / name).folder == folder


@pytest.mark.parametrize("name", ["nowhere", "empty", "empty/adapters.safetensors"])
def test_what_is_no_run(name: str, tmp_path: Path) -> None:
    """One sentence names what was looked for, and where."""
    (tmp_path / "empty").mkdir()

    with pytest.raises(RunError, match=r"there is no metrics\.jsonl in .*; give the folder of a run") as caught:
        read_run(tmp_path / name)

    assert str(caught.value).startswith(str(tmp_path / name))


def test_the_recipe_has_defaults_and_keys_of_other_versions(tmp_path: Path) -> None:
    """Keys that an older vlora did not know have today's defaults, those that only another one knows stay."""
    folder = write_run(tmp_path, REPORT)
    (folder / "recipe.toml").write_text('[data]\npath = "rows.jsonl"\n[train]\nepochs = 2\nnew_key = 7\n')

    recipe = read_run(folder).recipe

    assert (recipe["data.path"], recipe["train.batch_size"], recipe["train.new_key"]) == ("rows.jsonl", 4, 7)
    assert "train.iters" not in recipe


def test_a_recipe_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Lists and names of columns too."""
    folder = write_run(tmp_path, REPORT)
    text = '[data]\npath = "a"\ncolumns = {imgs = "images"}\n[lora]\ntargets = ["mlp"]'
    (folder / "recipe.toml").write_text(dump_recipe(parse_recipe(text)))

    recipe = read_run(folder).recipe

    assert (recipe["data.columns"], recipe["lora.targets"]) == ({"imgs": "images"}, ["mlp"])


@pytest.mark.parametrize("text", [None, "[data", b"\xff"])
def test_without_a_recipe(text: str | bytes | None, tmp_path: Path) -> None:
    """Numbers are there all the same."""
    folder = write_run(tmp_path, REPORT)
    if text is not None:
        (folder / "recipe.toml").write_bytes(text if isinstance(text, bytes) else text.encode())

    run = read_run(folder)

    assert (run.recipe, run["loss"].last) == ({}, 1.5)


def test_the_best_value() -> None:
    """The first one of equal ones; none of none."""
    assert Series((1, 2, 3), (2.0, 1.0, 1.0)).best() == (2, 1.0)
    assert Series((1, 2, 3), (2.0, 3.0, 3.0)).best(is_higher_better=True) == (2, 3.0)
    assert Series().best() is None
    assert Series().last is None
