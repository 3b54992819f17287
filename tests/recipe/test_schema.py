"""Recipes: every default, every complaint, and that nothing is lost on the way to a file and back."""

from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given

from tests.recipe.reading import MINIMAL
from tests.strategies import recipes
from vlora import dump_recipe, parse_recipe
from vlora.errors import RecipeError
from vlora.output.paths import output_paths
from vlora.recipe.converter import Names
from vlora.recipe.schema import Recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


DEFAULTS = {
    "model.path": "mlx-community/Qwen2-VL-2B-Instruct-bf16",
    "model.full_finetune": False,
    "model.train_vision": False,
    "model.adapter_path": None,
    "model.trust_remote_code": False,
    "data.split": "train",
    "data.config": None,
    "data.image_resize_shape": None,
    "data.max_pixels": None,
    "data.custom_prompt_format": None,
    "data.columns": Names(),
    "data.image_root": None,
    "data.system": None,
    "data.max_seq_length": 2048,
    "data.train_on_completions": False,
    "data.valid_path": None,
    "data.valid_split": None,
    "data.on_bad_row": "raise",
    "data.allow_urls": False,
    "data.chat_template": None,
    "data.assistant_id": None,
    "model.add_tokens": (),
    "lora.rank": 8,
    "lora.alpha": 16.0,
    "lora.dropout": 0.0,
    "optim.learning_rate": 2e-5,
    "lora.targets": (),
    "lora.last_layers": None,
    "lora.method": "lora",
    "lora.rslora": False,
    "lora.init": "default",
    "lora.train_embeddings": False,
    "lora.train_head": False,
    "optim.lora_plus_ratio": None,
    "optim.connector_rate": None,
    "optim.vision_rate": None,
    "optim.grad_clip": None,
    "train.objective": "sft",
    "train.batch_size": 4,
    "train.iters": 1000,
    "train.epochs": None,
    "train.gradient_accumulation_steps": 1,
    "train.grad_checkpoint": False,
    "train.checkpoint_every": 1,
    "train.checkpoint_part": "layer",
    "train.steps_per_report": 10,
    "train.steps_per_eval": 200,
    "train.steps_per_save": 100,
    "train.val_batches": 25,
    "memory.limit_gb": None,
    "memory.cache_gb": None,
    "memory.wired_gb": None,
    "output.path": "adapters.safetensors",
}


def value_of(recipe: Recipe, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(recipe, section), name)


@pytest.mark.parametrize("key", DEFAULTS)
def test_default(key: str) -> None:
    """A recipe that names only its data has the documented defaults, of the documented types."""
    found = value_of(parse_recipe(MINIMAL), key)

    assert found == DEFAULTS[key]
    assert type(found) is type(DEFAULTS[key])


@given(recipes())
def test_recipes_are_values(recipe: Recipe) -> None:
    """Recipes are frozen and hashable."""
    assert hash(recipe) == hash(attrs.evolve(recipe))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        recipe.train.iters = 1  # type: ignore[misc]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipe(path: Path) -> None:
    """A shipped recipe parses, round-trips, and begins with a comment that names its command."""
    text = path.read_text(encoding="utf-8")
    comment = text.partition("\n\n")[0]

    recipe = parse_recipe(text)

    assert parse_recipe(dump_recipe(recipe)) == recipe
    assert all(line.startswith("#") for line in comment.splitlines())
    assert f"python -m vlora recipes/{path.name}" in comment or f"python -m vlora init --recipe {path.stem} " in comment
    assert "Hardware:" in comment


def test_no_folder_is_made_for_a_user_that_there_is_not() -> None:
    """A home that cannot be found is an error of its key."""
    with pytest.raises(RecipeError, match=r"output\.path: found '~no-such-user/a', and there is no user"):
        output_paths(parse_recipe("", {"data.path": "a", "output.path": "~no-such-user/a"}))
