"""The recipe that what is asked was trained by."""

from pathlib import Path

import pytest

from vlora.errors import CheckpointError
from vlora.run.origin import find_adapter_recipe, find_model_recipe, is_adapter


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
