"""Runs that meet in a folder: at the same time, and one after another."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.arrays import load_arrays
from tests.run.test_bad_rows import write_rows
from tests.runs import losses, make_recipe, run
from vlora import Recipe, fit, parse_recipe
from vlora.errors import RecipeError, SampleError
from vlora.events import Finished, Started, Warned
from vlora.output.archive import archive_previous_run
from vlora.output.lock import LOCK_NAME
from vlora.output.paths import METRICS_NAME, RECIPE_NAME, STATE_NAME, output_paths

CheckpointFactory = Callable[[str], Path]


def steps_of(folder: Path) -> list[int]:
    """List the steps that the metrics have lines of, without the line of the start."""
    lines = [json.loads(line) for line in (folder / METRICS_NAME).read_text().splitlines()]
    return [line["step"] for line in lines if "device" not in line]


def names_of(folder: Path) -> set[str]:
    """Name the files in a folder and below, but not those of earlier runs."""
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return {str(path) for path in files if not path.parts[0].startswith("earlier-")}


def text_recipe(checkpoint: CheckpointFactory, folder: Path, output: Path, **overrides: Any) -> Recipe:
    """Make the recipe of a short run on five rows."""
    rows = folder / "rows.jsonl"
    if not rows.exists():
        write_rows(folder, "rows")
    return make_recipe(checkpoint("qwen3_vl"), rows, output, **overrides)


def test_two_runs_at_once(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """The second one is refused before it reads anything, resumed or not; the first one ends as if alone."""
    out = tmp_path / "out"
    recipe = text_recipe(checkpoint, tmp_path, out)
    events = fit(recipe)
    started = next(event for event in events if isinstance(event, Started))
    for resume in (False, True):
        with pytest.raises(RecipeError, match=r"output\.path: another run .* is writing to .*out"):
            run(recipe, resume=resume)
    rest = list(events)

    assert isinstance(rest[-1], Finished)
    assert steps_of(out) == [2, 4, 6]
    assert not (out / LOCK_NAME).exists()
    assert started not in rest


def test_an_earlier_run_is_set_aside(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Begun anew in the same folder, a run's files are its own; the earlier one's are a run that can go on exactly."""
    out = tmp_path / "out"
    options = {"lora__dropout": 0.2, "optim__schedule": "cosine"}
    first = text_recipe(checkpoint, tmp_path, out, **options)
    straight = losses(run(text_recipe(checkpoint, tmp_path, tmp_path / "straight", **options)))
    calls = iter([False, False, False, True])
    begun = losses(run(first, should_stop=lambda: next(calls)))
    again = run(text_recipe(checkpoint, tmp_path, out, train__iters=2, train__seed=1))
    notes = [event.message for event in again if isinstance(event, Warned)]
    earlier = out / "earlier-1"
    rest = losses(run(text_recipe(checkpoint, tmp_path, earlier / "adapters.safetensors", **options), resume=True))

    assert [note for note in notes if f"--resume --set output.path={earlier / 'adapters.safetensors'}" in note]
    assert begun + rest == straight
    assert steps_of(out) == [2]
    assert steps_of(earlier) == [2, 4, 6]
    assert "0000002_adapters.safetensors" not in names_of(out)
    assert {"0000002_adapters.safetensors", "adapters.safetensors", "adapter_config.json"} <= names_of(earlier)
    assert parse_recipe((out / RECIPE_NAME).read_text()).train.seed == 1
    weights = [load_arrays(folder / "adapters.safetensors") for folder in (tmp_path / "straight", earlier)]
    assert all(bool((weights[0][name] == weights[1][name]).all()) for name in weights[0])


def test_every_earlier_run_has_a_folder(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """What was set aside stays as it was; resuming sets nothing aside."""
    out = tmp_path / "out"
    for n_steps in (2, 4):
        run(text_recipe(checkpoint, tmp_path, out, train__iters=n_steps))
    run(text_recipe(checkpoint, tmp_path, out, train__iters=6))
    run(text_recipe(checkpoint, tmp_path, out, train__iters=8), resume=True)

    assert {path.name for path in out.glob("earlier-*")} == {"earlier-1", "earlier-2"}
    assert [steps_of(folder) for folder in (out / "earlier-1", out / "earlier-2", out)] == [
        [2],
        [2, 4],
        [2, 4, 6, 8],
    ]


def test_what_did_not_begin_moves_nothing(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """A run that ends at its first rows leaves the earlier one in its place; one without a line leaves nothing."""
    out = tmp_path / "out"
    run(text_recipe(checkpoint, tmp_path, out, train__iters=2))
    before = names_of(out)
    bad = write_rows(tmp_path, "bad", missing=tuple(range(5)))
    with pytest.raises(SampleError):
        run(text_recipe(checkpoint, tmp_path, out, data__path=str(bad)))
    assert names_of(out) == before
    assert not list(out.glob("earlier-*"))

    empty = text_recipe(checkpoint, tmp_path, tmp_path / "empty")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / METRICS_NAME).write_text("")
    assert archive_previous_run(empty, output_paths(empty)) is None


@pytest.mark.parametrize("start", ["out", "out/adapters.safetensors", "out/0000002_adapters.safetensors"])
def test_the_adapter_that_a_run_starts_from_stays(start: str, checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Training on in the folder of the adapter, a run can be interrupted and resumed: the adapter is read again."""
    out = tmp_path / "out"
    run(text_recipe(checkpoint, tmp_path, out))
    recipe = text_recipe(checkpoint, tmp_path, out, model__adapter_path=str(tmp_path / start), train__iters=3)
    first = run(recipe, should_stop=lambda: True)
    second = run(recipe, resume=True)

    assert len(losses(first)) == 1
    assert len(losses(second)) == 2
    assert {"adapters.safetensors", "0000002_adapters.safetensors"} <= names_of(out / "earlier-1")


def test_a_models_own_files_are_the_runs(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Full fine-tuning from the folder of an earlier run copies the model, not that run's metrics and recipe."""
    options = {"model__full_finetune": True, "optim__learning_rate": 1e-4}
    base, out = tmp_path / "base", tmp_path / "out"
    run(text_recipe(checkpoint, tmp_path, base, train__iters=4, **options))
    (base / "README.md").write_text("of the model")
    # As if that run still went on.
    (base / LOCK_NAME).write_text("")
    run(text_recipe(checkpoint, tmp_path, out, train__iters=2, model__path=str(base), **options))

    assert steps_of(base) == [2, 4]
    assert steps_of(out) == [2]
    assert parse_recipe((out / RECIPE_NAME).read_text()).model.path == str(base)
    assert {"README.md", "config.json", STATE_NAME} <= names_of(out)
    assert LOCK_NAME not in names_of(out)


def test_an_earlier_model_is_set_aside(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """After full fine-tuning the model goes with its state and metrics; what is no part of a model stays."""
    out = tmp_path / "out"
    options = {"model__full_finetune": True, "optim__learning_rate": 1e-4}
    saving = {**options, "train__iters": 3, "train__steps_per_save": 2}
    run(text_recipe(checkpoint, tmp_path, out, **saving))
    (out / "notes.txt").write_text("of the user")
    (out / "tokenizer.json").write_text("changed")
    first, numbered = load_arrays(out / "model.safetensors"), tmp_path / "out-earlier-1-0000002"
    second = run(text_recipe(checkpoint, tmp_path, out, train__seed=1, **saving))

    earlier = out / "earlier-1"
    assert {"config.json", "model.safetensors", METRICS_NAME, RECIPE_NAME, STATE_NAME} <= names_of(earlier)
    assert (earlier / "tokenizer.json").read_text() == "changed"
    assert (out / "tokenizer.json").read_text() != "changed"
    assert (out / "notes.txt").read_text() == "of the user"
    kept = load_arrays(earlier / "model.safetensors")
    assert all(bool((first[name] == kept[name]).all()) for name in first)
    assert {"config.json", "model.safetensors"} <= names_of(numbered) & names_of(tmp_path / "out-0000002")
    assert isinstance(second[-1], Finished)
    base = str(tmp_path / "out-0000002")
    with pytest.raises(RecipeError, match=r"out-0000002', .* would be overwritten by the checkpoint of step 2"):
        run(text_recipe(checkpoint, tmp_path, out, model__path=base, **saving))
