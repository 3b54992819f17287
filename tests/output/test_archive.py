"""What stands in a folder is set aside whole, whenever the process ends, and links are left alone."""

import errno
import json
import os
import pathlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import pytest

from vlora import Recipe
from vlora.errors import CheckpointError, RecipeError
from vlora.output import atomic, checkpoint
from vlora.output.archive import (
    archive_previous_run,
    complete_setting_aside,
    refuse_among_rows,
    refuse_links,
    refuse_model_folder,
    remove_partials,
)
from vlora.output.lock import LOCK_NAME, exclusive_run_lock
from vlora.output.metrics_log import MetricsLog
from vlora.output.paths import DERIVED_NAMES, output_paths
from vlora.output.setting_aside import JOURNAL_NAME
from vlora.recipe.parse import dump_recipe
from vlora.recipe.schema import DataSection, ModelSection, OutputSection

MODEL_FILES = ("tokenizer.json", "preprocessor_config.json")


class KilledError(BaseException):
    """Stands for the end of a process."""


def recipe_for(output: Path, **model: Any) -> Recipe:
    return Recipe(
        model=ModelSection(path="base", **model), data=DataSection(path="-"), output=OutputSection(path=str(output))
    )


def write_adapter(path: Path, value: float, scale: float) -> None:
    arrays = {"layers.0.lora_a": mx.full((2, 2), value), "layers.0.lora_b": mx.full((2, 2), value)}
    checkpoint.save_adapter(path, arrays, {"lora_parameters": {"scale": scale}})


def fill(folder: Path) -> None:
    """Leave what two earlier runs may have left in a folder, and what is nobody's."""
    write_adapter(folder / "first.safetensors", 1.0, 20.0)
    write_adapter(folder / "0000002_first.safetensors", 2.0, 20.0)
    write_adapter(folder / "second.safetensors", 3.0, 20.0)
    (folder / "training").mkdir()
    for name in ("training/state.safetensors", "training/another", "metrics.jsonl", "recipe.toml", "notes.txt"):
        (folder / name).write_text(f"earlier {name}")
    (folder / "config.json").write_text("a model's")
    for name in MODEL_FILES:
        (folder / name).write_text(name)
    numbered = folder.with_name(f"{folder.name}-0000002")
    numbered.mkdir()
    (numbered / "config.json").write_text("numbered")


def contents(root: Path) -> dict[str, bytes]:
    """Give what is in a folder and below."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def end_at(monkeypatch: pytest.MonkeyPatch, number: int) -> Callable[[], int]:
    """End the process before its so-manyth change of the disk; give how many there were."""
    n_calls = 0

    def counted(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal n_calls
            n_calls += 1
            if n_calls == number:
                raise KilledError
            return function(*args, **kwargs)

        return call

    for name in ("rename", "replace", "mkdir", "unlink", "write_text"):
        monkeypatch.setattr(pathlib.Path, name, counted(getattr(pathlib.Path, name)))
    return lambda: n_calls


@pytest.mark.parametrize("is_full", [False, True])
def test_every_file_is_at_one_place_whenever_a_process_ends(
    is_full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended before any change of the disk, nothing is lost or doubled; the next start moves the rest, and only it."""
    model_files = MODEL_FILES if is_full else ()
    whole: dict[str, bytes] = {}
    for number in range(100):
        root = tmp_path / str(number)
        out = root / "out"
        fill(out)
        before = contents(root)
        recipe = recipe_for(out / "second.safetensors" if not is_full else out, full_finetune=is_full)
        with monkeypatch.context() as patch:
            # Number 0: it is not ended.
            n_calls = end_at(patch, number)
            is_ended = False
            try:
                earlier = archive_previous_run(recipe, output_paths(recipe), model_files)
            except KilledError:
                is_ended = True
        between = {name: text for name, text in contents(root).items() if JOURNAL_NAME not in name}
        for folder in {(root / name).parent for name in between if name.endswith(".safetensors")}:
            # What is not hidden can be loaded, at its own scale.
            has_adapters = any(folder.glob("*first.safetensors"))
            assert folder.name.startswith(".") or not has_adapters or (folder / "adapter_config.json").is_file()
        assert sorted(between.values()) == sorted(before.values()), f"ended at {number}"
        completed = complete_setting_aside(out)
        assert not (out / JOURNAL_NAME).exists()
        after = {name: text for name, text in contents(root).items() if ".partial-" not in name}
        if number == 0:
            whole = after
            assert earlier == out / "earlier-1"
            continue
        assert after == (whole if completed or not is_ended else before), f"ended at {number}"
        if not is_ended:
            break
    assert n_calls() == number - 1 > 5
    assert whole["out/notes.txt"] == b"earlier notes.txt"
    assert "out/earlier-1/training/another" in whole
    if is_full:
        assert whole["out-earlier-1-0000002/config.json"] == b"numbered"
        assert whole["out/earlier-1/tokenizer.json"] == b"tokenizer.json"
    else:
        # Of another run, or nobody's: an adapter neither reads nor writes it.
        assert {"out-0000002/config.json", "out/tokenizer.json"} <= whole.keys()


def test_an_adapter_keeps_its_scale(tmp_path: Path) -> None:
    """Beside every adapter of an earlier run lies the configuration that it was saved with, whatever its name."""
    write_adapter(tmp_path / "first.safetensors", 1.0, 20.0)
    second = recipe_for(tmp_path / "second.safetensors")
    earlier = archive_previous_run(second, output_paths(second))
    write_adapter(tmp_path / "second.safetensors", 1.0, 0.5)

    assert earlier is not None
    for folder, scale, name in ((earlier, 20.0, "first"), (tmp_path, 0.5, "second")):
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["lora_parameters"]["scale"] == scale
        assert [path.stem for path in folder.glob("*.safetensors")] == [name]


def test_what_is_no_file_of_weights_stays(tmp_path: Path) -> None:
    """A pipe is not waited for, and a header that is nested without an end is no adapter's."""
    output = tmp_path / "second.safetensors"
    write_adapter(output, 3.0, 20.0)
    os.mkfifo(tmp_path / "pipe.safetensors")
    deep = b"[" * 100_000
    (tmp_path / "deep.safetensors").write_bytes(len(deep).to_bytes(8, "little") + deep)
    earlier = archive_previous_run(recipe_for(output), output_paths(recipe_for(output)))
    assert earlier is not None
    assert {path.name for path in earlier.iterdir()} == {"second.safetensors", "adapter_config.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"pipe.safetensors", "deep.safetensors", earlier.name}


def test_the_start_stays_and_is_copied(tmp_path: Path) -> None:
    """An adapter that the run starts from is at both places, all else is moved."""
    fill(tmp_path)
    recipe = recipe_for(tmp_path / "second.safetensors")
    start = attrs.evolve(recipe.model, adapter_path=str(tmp_path / "first.safetensors"))
    earlier = archive_previous_run(attrs.evolve(recipe, model=start), output_paths(recipe))

    assert earlier is not None
    for name in ("first.safetensors", "adapter_config.json"):
        assert (earlier / name).read_bytes() == (tmp_path / name).read_bytes()
    assert not (tmp_path / "second.safetensors").exists()
    assert (earlier / "second.safetensors").is_file()


def test_what_did_not_begin_is_not_kept(tmp_path: Path) -> None:
    """A run that ended before its first line leaves nothing to keep; a recipe that somebody has written is kept."""
    recipe = recipe_for(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "recipe.toml").write_text(dump_recipe(recipe))
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / ".partial-state.safetensors").write_text("begun")
    assert archive_previous_run(recipe, output_paths(recipe)) is None
    for name in DERIVED_NAMES:
        (tmp_path / name).write_text("drawn of it")
    assert archive_previous_run(recipe, output_paths(recipe)) is None
    (tmp_path / "recipe.toml").write_text(f"# mine\n{dump_recipe(recipe)}")
    assert archive_previous_run(recipe, output_paths(recipe)) == tmp_path / "earlier-1"


@pytest.mark.parametrize("name", DERIVED_NAMES)
def test_what_a_run_would_draw_over_is_kept(name: str, tmp_path: Path) -> None:
    """Somebody's own picture has a name that a run takes; no metrics say that it is derived."""
    (tmp_path / name).write_text("mine")

    assert archive_previous_run(recipe_for(tmp_path), output_paths(recipe_for(tmp_path))) == tmp_path / "earlier-1"
    assert (tmp_path / "earlier-1" / name).read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["training", "metrics.jsonl", "recipe.toml", "adapters.safetensors", ".partial-recipe.toml"]
)
@pytest.mark.parametrize("exists", [False, True])
def test_planted_links_are_not_followed(name: str, exists: bool, tmp_path: Path) -> None:
    """What a link leads to stays as it is, in a new run and in one that goes on."""
    out, victim = tmp_path / "out", tmp_path / "victim"
    if exists and name == "training":
        victim.mkdir()
        (victim / "state.safetensors").write_text("mine")
    elif exists:
        victim.write_text("mine")
    out.mkdir()
    (out / name).symlink_to(victim)
    recipe = recipe_for(out)
    before = contents(tmp_path / "victim") if victim.is_dir() else victim.exists() and victim.read_bytes()
    if name in ("training", "metrics.jsonl", "recipe.toml"):
        with pytest.raises(CheckpointError, match="is a link"):
            refuse_links(output_paths(recipe))
    archive_previous_run(recipe, output_paths(recipe))
    MetricsLog.begin(out / "metrics.jsonl").write({"step": 1})
    atomic.write_text(out / "recipe.toml", dump_recipe(recipe))
    write_adapter(out / "adapters.safetensors", 1.0, 1.0)
    atomic.write_text(out / "training" / "state.safetensors", "state")

    after = contents(tmp_path / "victim") if victim.is_dir() else victim.exists() and victim.read_bytes()
    assert after == before
    assert (out / "training" / "state.safetensors").read_text() == "state"
    assert not any(part.is_symlink() for part in out.iterdir())


@pytest.mark.parametrize("is_full", [False, True])
def test_what_was_never_whole_is_removed(is_full: bool, tmp_path: Path) -> None:
    """Files and folders that a killed run had begun; nothing that others may have begun."""
    out = tmp_path / "out"
    paths = output_paths(recipe_for(out, full_finetune=is_full))
    (out / "training").mkdir(parents=True)
    own = [out / "training" / ".partial-state.safetensors", out / ".partial-metrics.jsonl"]
    own += [tmp_path / ".partial-out-0000007", tmp_path / ".partial-out"] if is_full else []
    own += [] if is_full else [out / ".partial-0000007_adapters.safetensors", out / ".partial-adapters.safetensors"]
    others = [out / ".partial-notes.txt", out / "metrics.jsonl", tmp_path / ".partial-metrics.jsonl"]
    others += [] if is_full else [tmp_path / ".partial-out"]
    for path in [*own, *others]:
        if "out" in path.name:
            path.mkdir()
            (path / "config.json").write_text("begun")
        else:
            path.write_text("begun")
    remove_partials(paths)
    assert not any(path.exists() for path in own)
    assert all(path.exists() for path in others)


def test_links_in_the_way_of_the_lock_and_of_metrics(tmp_path: Path) -> None:
    """A lock is not taken through a link; a line is not appended through one that came later."""
    victim = tmp_path / "victim"
    (tmp_path / LOCK_NAME).symlink_to(victim)
    with pytest.raises(RecipeError, match=r"\.running is a link"), exclusive_run_lock(tmp_path):
        pass
    (tmp_path / LOCK_NAME).unlink()
    metrics = MetricsLog.begin(tmp_path / "metrics.jsonl")
    metrics.path.unlink()
    metrics.path.symlink_to(victim)
    with pytest.raises(OSError, match="metrics") as caught:
        metrics.write({"step": 1})
    assert caught.value.errno == errno.ELOOP
    assert not victim.exists()


@pytest.mark.parametrize("key", ["path", "valid_path"])
def test_a_run_does_not_write_among_its_rows(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of rows, itself or deeper, by whatever name it is called; beside it, and beside a file, it does."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    (tmp_path / "pets" / "rows.jsonl").touch()
    (tmp_path / "link").symlink_to("pets")
    for output, data, is_refused in (
        ("pets/run", "pets", True),
        ("pets/adapters.safetensors", "pets", True),
        ("link/cat/run/a.safetensors", "pets", True),
        ("pets/run", "link", True),
        ("adapters.safetensors", ".", True),
        ("pets-run", "pets", False),
        ("pets/run", "pets/cat", False),
        ("pets/run", "pets/rows.jsonl", False),
        ("pets/run", "some/hub-id", False),
    ):
        section: dict[str, Any] = {"path": "-", key: data}
        recipe = Recipe(data=DataSection(**section), output=OutputSection(path=output))
        if not is_refused:
            refuse_among_rows(recipe, output_paths(recipe))
            continue
        with pytest.raises(RecipeError, match=rf"^output\.path: .* lies in the folder of data\.{key}, where"):
            refuse_among_rows(recipe, output_paths(recipe))


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("path", "predictions.jsonl"),
        ("valid_path", "predictions-eval-base.jsonl"),
        ("path", "training/rows.jsonl"),
        ("valid_path", "best/x.csv"),
        ("path", "report.html"),
    ],
)
def test_a_run_does_not_read_what_it_writes(key: str, name: str, tmp_path: Path) -> None:
    """It would be moved away before it is read; an earlier run's is none of it."""
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).touch()
    (tmp_path / "out" / "earlier-1").mkdir()
    (tmp_path / "out" / "earlier-1" / "predictions.jsonl").touch()
    for given, is_refused in ((name, True), ("earlier-1/predictions.jsonl", False)):
        section: dict[str, Any] = {"path": "-", key: str(tmp_path / "out" / given)}
        recipe = Recipe(data=DataSection(**section), output=OutputSection(path=str(tmp_path / "out")))
        if is_refused:
            with pytest.raises(RecipeError, match=rf"^data\.{key}: .* is what the run itself writes"):
                refuse_among_rows(recipe, output_paths(recipe))
        else:
            refuse_among_rows(recipe, output_paths(recipe))


def test_answers_of_an_earlier_run_go_with_it(tmp_path: Path) -> None:
    """Those that `eval` has written: the next `eval` would write over them. Without a run they stay."""
    recipe = recipe_for(tmp_path)
    names = ("predictions-eval.jsonl", "predictions-eval-base.jsonl")
    for name in names:
        (tmp_path / name).write_text("answers")
    assert archive_previous_run(recipe, output_paths(recipe)) is None
    (tmp_path / "metrics.jsonl").write_text("metrics")

    earlier = archive_previous_run(recipe, output_paths(recipe))
    assert earlier is not None
    for name in names:
        assert (earlier / name).read_text() == "answers"
        assert not (tmp_path / name).exists()


def test_an_adapter_does_not_go_into_a_models_folder(tmp_path: Path) -> None:
    """Its tensors would be loaded with the model's."""
    paths = output_paths(recipe_for(tmp_path))
    write_adapter(tmp_path / "adapters.safetensors", 1.0, 1.0)
    (tmp_path / "config.json").write_text("{}")
    refuse_model_folder(paths)
    mx.save_safetensors(str(tmp_path / "model.safetensors"), {"embed.weight": mx.zeros(2)})
    with pytest.raises(RecipeError, match="the folder of a model"):
        refuse_model_folder(paths)
