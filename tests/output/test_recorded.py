"""Versions that a run has recorded."""

import json
from pathlib import Path

import pytest

from vlora import parse_recipe
from vlora.output.recorded import pin_recorded
from vlora.recipe.parse import dump_recipe
from vlora.recipe.schema import Recipe

MODEL, DATA = "a" * 40, "b" * 40


def recipe_of(**keys: str) -> Recipe:
    """Make a recipe of files of a hub."""
    named = {name.replace("__", "."): value for name, value in keys.items()}
    return parse_recipe("", {"model.path": "someone/model", "data.path": "someone/rows", **named})


def write_run(folder: Path, recipe: Recipe, first: object) -> Path:
    """Write what a run leaves besides its weights, and give where those would be."""
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(dump_recipe(recipe))
    (folder / "metrics.jsonl").write_text(f"{json.dumps(first)}\n{{}}\n")
    return folder / "adapters.safetensors"


FIRST = {"step": 0, "model_commit": MODEL, "data_commit": DATA}


@pytest.mark.parametrize("place", ["adapters.safetensors", "", "0000010_adapters.safetensors", "best"])
def test_a_run_tells_its_versions(place: str, tmp_path: Path) -> None:
    """Beside its adapter, within its folder, and of its best state."""
    write_run(tmp_path / "run", recipe_of(), FIRST)
    (tmp_path / "run" / "best").mkdir()
    pinned, commits = pin_recorded(recipe_of(), tmp_path / "run" / place)

    assert (pinned.model.revision, pinned.data.revision) == (MODEL, DATA)
    assert commits == {"model": MODEL, "data": DATA}


def test_what_the_recipe_says_now_goes_first(tmp_path: Path) -> None:
    """Another version, or another model, is not that of the run; what is the same is pinned."""
    weights = write_run(tmp_path / "run", recipe_of(model__revision="main"), FIRST)
    pinned, commits = pin_recorded(recipe_of(model__revision="v2"), weights)

    assert (pinned.model.revision, pinned.data.revision) == ("v2", DATA)
    assert commits == {"data": DATA}
    assert pin_recorded(recipe_of(model__revision="main"), weights)[0].model.revision == MODEL
    assert pin_recorded(recipe_of(model__path="someone/else"), weights)[0].model.revision is None


@pytest.mark.parametrize("first", [{"step": 0}, [1], {"model_commit": None, "step": 0}])
def test_a_run_without_versions_pins_nothing(first: object, tmp_path: Path) -> None:
    """Of folders there are none, and damaged files say nothing."""
    weights = write_run(tmp_path / "run", recipe_of(), first)
    recipe = recipe_of()

    assert pin_recorded(recipe, weights) == (recipe, {})

    (tmp_path / "run" / "recipe.toml").write_text("[model")

    assert pin_recorded(recipe, weights) == (recipe, {})


def test_an_adapter_without_its_run_names_its_base(tmp_path: Path) -> None:
    """Where the recipe has the same model and names no version of it."""
    config = {"base_model": "someone/model", "base_revision": MODEL}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    weights = tmp_path / "adapters.safetensors"

    assert pin_recorded(recipe_of(), weights)[1] == {"model": MODEL}
    assert pin_recorded(recipe_of(model__revision="v2"), weights)[1] == {}
    assert pin_recorded(recipe_of(model__path="other/model"), weights)[1] == {}

    (tmp_path / "adapter_config.json").write_text("{}")

    assert pin_recorded(recipe_of(), weights)[1] == {}
