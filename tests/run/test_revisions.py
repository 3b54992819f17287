"""Versions of hub ids: they are loaded, written down, and gone on with."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.runs import losses, make_recipe, run
from vlora.errors import CheckpointError, ModelError, RecipeError
from vlora.evaluation.prediction import Prediction
from vlora.events import Warned, Working
from vlora.output.paths import METRICS_NAME
from vlora.run.evaluation import Chosen, Opened, evaluate_answers

CheckpointFactory = Callable[[str], Path]

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def hub(checkpoint: CheckpointFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lay out the cache of a hub that is not to be reached: two versions of a model and of rows, "main" the old."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    for number, commit in enumerate((OLD, NEW)):
        model, data = (cache / f"{kind}s--someone--tiny" / "snapshots" / commit for kind in ("model", "dataset"))
        shutil.copytree(checkpoint("qwen3_vl"), model)
        data.mkdir(parents=True)
        rows = [{"question": f"What is {row}?", "answer": "one two three"[: 3 + 4 * number]} for row in range(4)]
        (data / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        os.utime(data, (number, number))
    move(cache, OLD)
    return cache


def move(cache: Path, commit: str) -> None:
    """Let the branch be another version."""
    for kind in ("model", "dataset"):
        ref = cache / f"{kind}s--someone--tiny" / "refs" / "main"
        ref.parent.mkdir(exist_ok=True)
        ref.write_text(commit)


def hub_recipe(tmp_path: Path, **options: Any) -> Any:
    """Make the recipe of a run from the hub."""
    keys = {"model__revision": "main", "data__revision": "main", **options}
    recipe = make_recipe(Path("someone/tiny"), Path("someone/tiny"), tmp_path / "out", **keys)
    assert (recipe.model.path, recipe.data.path) == ("someone/tiny", "someone/tiny")
    return recipe


def first_line(tmp_path: Path) -> dict[str, Any]:
    """Read the first line of the metrics."""
    found: dict[str, Any] = json.loads((tmp_path / "out" / METRICS_NAME).read_text().splitlines()[0])
    return found


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(("revision", "commit"), [("main", OLD), (NEW, NEW), (OLD, OLD)])
def test_a_version_is_loaded_and_recorded(revision: str, commit: str, tmp_path: Path) -> None:
    """Of the model and of the rows, by the name of a branch or by a commit."""
    events = run(hub_recipe(tmp_path, model__revision=revision, data__revision=revision, train__iters=1))

    assert len(losses(events)) == 1
    assert (first_line(tmp_path)["model_commit"], first_line(tmp_path)["data_commit"]) == (commit, commit)
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_revision"] == commit


def test_a_run_goes_on_with_the_versions_that_it_began_with(hub: Path, tmp_path: Path) -> None:
    """A branch that has moved on changes nothing; a recipe that names another version is refused."""
    n_asked = iter(range(100))
    first = run(hub_recipe(tmp_path), should_stop=lambda: next(n_asked) >= 2)
    move(hub, NEW)
    with pytest.raises(CheckpointError, match=f"data.revision: 'main' then, '{NEW}' now"):
        run(hub_recipe(tmp_path, data__revision=NEW), resume=True)
    again = run(hub_recipe(tmp_path), resume=True)
    assert first_line(tmp_path)["data_commit"] == OLD
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_revision"] == OLD

    move(hub, OLD)
    straight = run(hub_recipe(tmp_path))
    assert losses(first) + losses(again) == losses(straight)


@pytest.mark.parametrize("is_full", [False, True], ids=["lora", "full"])
def test_answers_are_of_the_versions_that_were_trained(is_full: bool, hub: Path, tmp_path: Path) -> None:
    """A branch that has moved on changes neither the rows nor the base; another version in the recipe does."""
    recipe = hub_recipe(tmp_path, train__iters=1, model__full_finetune=is_full, eval__max_new_tokens=1)
    run(recipe)
    move(hub, NEW)
    trained, base, other = (
        [
            event
            for event in evaluate_answers(attrs.evolve(recipe, data=data), Chosen(split="train", is_base=is_base))
            if not isinstance(event, Working | Warned)
        ]
        for data, is_base in (
            (recipe.data, False),
            (recipe.data, True),
            (attrs.evolve(recipe.data, revision=NEW), False),
        )
    )

    for found in (trained, base):
        assert isinstance(found[0], Opened)
        assert found[0].commits == {"model": OLD, "data": OLD}
        assert [event.expected for event in found[1:] if isinstance(event, Prediction)] == ["one"] * 4
    assert isinstance(other[0], Opened)
    assert other[0].commits == {"model": OLD}
    assert {event.expected for event in other[1:] if isinstance(event, Prediction)} == {"one two"}


@pytest.mark.usefixtures("hub")
def test_versions_that_there_are_not(tmp_path: Path) -> None:
    """Each is named, and what has none at all."""
    with pytest.raises(ModelError, match=r"model\.path: .*'someone/tiny', and the hub gives no version 'v9'"):
        run(hub_recipe(tmp_path, model__revision="v9"))
    with pytest.raises(RecipeError, match="its version 'v9' is not in the cache"):
        run(hub_recipe(tmp_path, data__revision="v9"))


def test_folders_have_no_versions(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """A version beside a folder or a file is a mistake."""
    folder = checkpoint("qwen3_vl")
    with pytest.raises(ModelError, match=r"model\.revision: found 'v1', and .* is a folder"):
        run(make_recipe(folder, rows, tmp_path / "out", model__revision="v1"))
    for path in (rows, Path("builtin:digits")):
        with pytest.raises(RecipeError, match=r"data\.revision: found 'v1' together with .*leave it out"):
            run(make_recipe(folder, path, tmp_path / "out", data__revision="v1"))
