"""The recipe that what is asked was trained by."""

import json
from pathlib import Path

import pytest

from vlora import models
from vlora.build import BUILTIN_FOLDER, BUILTIN_MODEL
from vlora.errors import CheckpointError
from vlora.output.atomic import MODEL_NAME
from vlora.run.origin import find_adapter_recipe, find_built_in, find_model_recipe, is_adapter


def test_adapters_are_told_from_models(tmp_path: Path) -> None:
    """By their configuration, or by being a file of arrays."""
    assert not is_adapter(str(tmp_path))
    assert not is_adapter("some/hub-id")
    assert is_adapter("runs/0000200_adapters.safetensors")
    (tmp_path / "adapter_config.json").write_text("{}")
    assert is_adapter(str(tmp_path))
    with pytest.raises(CheckpointError, match="found no"):
        find_adapter_recipe(str(tmp_path))


def test_the_recipe_of_a_model(tmp_path: Path) -> None:
    """That of a run in its folder says how rows are written; what it trained does not matter any more."""
    text = '[model]\npath = "base"\nfull_finetune = true\n[data]\npath = "x"\nsystem = "Be brief."\n'
    (tmp_path / "recipe.toml").write_text(text)
    recipe = find_model_recipe(str(tmp_path))
    assert (recipe.model.path, recipe.data.system, recipe.model.full_finetune) == (str(tmp_path), "Be brief.", False)
    assert find_model_recipe("some/hub-id").model.path == "some/hub-id"


def test_the_folder_of_a_base_that_training_has_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the run's folder, from wherever the adapter is named; where that moved alone, it is built within it."""
    built = models.build_tiny_qwen3_vl(tmp_path / "runs" / BUILTIN_FOLDER, seed=3)
    own = tmp_path / "runs" / "first"
    own.mkdir()
    (own / "adapters.safetensors").touch()
    (own / "adapter_config.json").write_text(json.dumps({"base_model": BUILTIN_MODEL}))
    (own / "recipe.toml").write_text('[data]\npath = "x"\n[train]\nseed = 3\n')
    monkeypatch.chdir(own)
    for name in (str(own), ".", "adapters.safetensors", "../first"):
        assert find_adapter_recipe(name).model.path == str(built)
    assert find_built_in("some/hub-id", own / "adapters.safetensors") == "some/hub-id"
    (tmp_path / "elsewhere").mkdir()
    moved = own.rename(tmp_path / "elsewhere" / "moved")
    assert find_adapter_recipe(str(moved)).model.path == str(moved / BUILTIN_FOLDER)
    weights = [folder / "model.safetensors" for folder in (built, moved / BUILTIN_FOLDER)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_base_beside_an_adapter_comes_before_those_of_other_runs(tmp_path: Path) -> None:
    """By default both lie in one folder; the folder above may have another run's."""
    own = tmp_path / "own"
    for folder in (tmp_path, own):
        (folder / BUILTIN_FOLDER).mkdir(parents=True)
        (folder / BUILTIN_FOLDER / MODEL_NAME).touch()
    assert find_built_in(BUILTIN_MODEL, own / "adapters.safetensors") == str(own / BUILTIN_FOLDER)
