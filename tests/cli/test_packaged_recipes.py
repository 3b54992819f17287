"""The recipes that come with vlora are those of the folder beside the package."""

from pathlib import Path

import pytest

from vlora.cli.packaged_recipes import list_recipes, read_packaged
from vlora.errors import RecipeError

RECIPES = Path(__file__).parents[2] / "recipes"


def test_all_come_with_it() -> None:
    """Each file has a name, a sentence and its text."""
    files = {file.stem: file.read_text() for file in RECIPES.glob("*.toml")}

    assert {name: read_packaged(name) for name in list_recipes()} == files
    assert all(purpose.endswith(".") and "#" not in purpose for purpose in list_recipes().values())
    assert read_packaged("quickstart.toml") == files["quickstart"]


def test_another_name_is_refused() -> None:
    """The near one is named, or else all of them; a path is no name."""
    with pytest.raises(RecipeError, match=r"--recipe: found 'quikstart', .*; did you mean quickstart\?"):
        read_packaged("quikstart")
    with pytest.raises(RecipeError, match="there are deepseek_vl2, forkme, "):
        read_packaged("../pyproject")
