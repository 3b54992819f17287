"""From a recipe to its parts: the model found, what its output may overwrite, and what is trained."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs import make_recipe, write_image_rows
from tests.training import picture
from vlora.adapters.attached import lora_layers
from vlora.build import BUILTIN_MODEL, find_model, load_data, load_model
from vlora.errors import RecipeError

CheckpointFactory = Callable[[str], Path]


def test_the_built_in_model_is_built_once_beside_the_output(tmp_path: Path) -> None:
    """A second run in the folder finds it there, with the weights of the first."""
    recipe = make_recipe(Path(BUILTIN_MODEL), tmp_path / "rows.jsonl", tmp_path / "runs" / "model")
    files = find_model(recipe)
    written = (files.path / "model.safetensors").stat()

    assert files.path == tmp_path / "runs" / "tiny-qwen3-vl"
    assert (find_model(recipe).path / "model.safetensors").stat().st_mtime_ns == written.st_mtime_ns


def test_the_base_is_not_overwritten(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Full fine-tuning does not write where it starts from, nor is an adapter put among a model's files."""
    base = checkpoint("qwen3_vl")
    for output, full in ((base, True), (base / "adapters.safetensors", False)):
        recipe = make_recipe(base, tmp_path / "rows.jsonl", output, model__full_finetune=full)
        with pytest.raises(RecipeError, match=r"^output\.path: "):
            find_model(recipe)


def test_rows_that_are_given_take_the_place_of_the_recipes(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """The recipe's own rows are not looked for; without rows to validate on, a share is held out."""
    recipe = make_recipe(checkpoint("qwen3_vl"), tmp_path / "nowhere", tmp_path / "o", data__valid_fraction=0.25)
    rows = [{"image": picture(32, 32, number), "question": "What?", "answer": str(number)} for number in range(8)]
    data = load_data(recipe, rows)

    assert data.valid is not None
    assert (len(data.train), len(data.valid)) == (6, 2)
    assert len(load_data(recipe, rows, rows[:1]).train) == 8
    assert data.encoder(data.train[0]).supervised.any()


@pytest.mark.parametrize("full", [False, True])
def test_what_a_recipe_trains(full: bool, checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Adapters, or the language model itself; the configuration says which and of which base."""
    base = checkpoint("qwen3_vl")
    recipe = make_recipe(base, write_image_rows(tmp_path), tmp_path / "o", model__full_finetune=full)
    backbone, config = load_model(recipe, find_model(recipe), is_abstract=True)
    adapted = list(lora_layers(backbone.module))

    assert bool(adapted) != full
    assert config["base_model"] == str(base)
    assert config["fine_tune_type"] == ("full" if full else "lora")
