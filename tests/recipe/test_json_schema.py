"""The JSON Schema of recipes."""

import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.recipe.reading import MINIMAL
from vlora import dump_recipe, parse_recipe
from vlora.recipe.json_schema import make_schema
from vlora.recipe.parse import all_keys

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


def problems(text: str) -> list[str]:
    """Give what an editor marks."""
    return [error.message for error in jsonschema.Draft7Validator(make_schema()).iter_errors(tomllib.loads(text))]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_valid(path: Path) -> None:
    """As they stand, and with every default spelled out."""
    text = path.read_text(encoding="utf-8")

    assert not problems(text)
    assert not problems(dump_recipe(parse_recipe(text)))


def test_it_has_every_key_with_its_description() -> None:
    """And is a schema."""
    schema = make_schema()
    jsonschema.Draft7Validator.check_schema(schema)
    sections: dict[str, Any] = {name: of for name, of in schema["properties"].items() if name != "extends"}

    assert [f"{name}.{key}" for name, of in sections.items() for key in of["properties"]] == all_keys()
    assert all(of["description"] for of in sections.values())
    assert all(key["description"].endswith(".") for of in sections.values() for key in of["properties"].values())
    assert schema["properties"]["optim"]["properties"]["learning_rate"] == {
        "type": "number",
        "exclusiveMinimum": 0,
        "default": 2e-5,
        "description": "The highest rate, reached after the warmup.",
    }


@pytest.mark.parametrize(
    ("text", "is_valid"),
    [
        ('extends = "base.toml"', True),
        ('[data]\npath = "a"\ncolumns = {a = "image"}\nimage_resize_shape = [32, 64]', True),
        ('[data]\npath = "a"\n[data.custom_prompt_format]\nuser = "{q}"', True),
        ("[lora]\nrank = 0", False),
        ("[lora]\nrnak = 3", False),
        ('[lora]\nrank = "3"', False),
        ("[data]\nimage_resize_shape = [32]", False),
        ('[optim]\nname = "adamx"', False),
        ("[optim]\nlearning_rate = 0.0", False),
        ("[zzz]", False),
        ("extends = 3", False),
    ],
)
def test_what_an_editor_marks(text: str, is_valid: bool) -> None:
    """Unknown names, wrong types, values out of bounds."""
    assert bool(problems(text)) != is_valid
    assert not problems(MINIMAL)
