"""Recipes that extend others."""

from collections.abc import Mapping

import pytest

from vlora import dump_recipe, parse_recipe
from vlora.errors import RecipeError
from vlora.recipe.extending import ReadBase

BASE = """
[model]
path = "some/model"
[data]
path = "rows.jsonl"
columns = {photo = "image"}
[lora]
rank = 4
targets = ["q_proj", "v_proj"]
[train]
epochs = 2
seed = 7
"""


def reader(files: Mapping[str, str]) -> ReadBase:
    """Give what reads recipes from a dict."""

    def read_base(_: str, wanted: str) -> tuple[str, str]:
        if wanted not in files:
            msg = f"extends: found {wanted!r}, which is not there"
            raise RecipeError(msg)
        return wanted, files[wanted]

    return read_base


def test_the_nearer_recipe_replaces_keys() -> None:
    """Key by key; lists and tables as a whole; a length of the run the other one."""
    files = {"base": BASE, "middle": 'extends = "base"\n[lora]\nrank = 8\n[train]\niters = 30'}
    text = 'extends = "middle"\n[lora]\ntargets = ["o_proj"]\n[data]\ncolumns = {reply = "answer"}\n[optim]\neps = 1e-6'
    recipe = parse_recipe(text, {"train.seed": 9}, read_base=reader(files))

    assert (recipe.model.path, recipe.data.path) == ("some/model", "rows.jsonl")
    assert (recipe.lora.rank, recipe.lora.targets, recipe.optim.eps) == (8, ("o_proj",), 1e-6)
    assert (recipe.train.iters, recipe.train.epochs, recipe.train.seed) == (30, None, 9)
    assert recipe.data.columns == {"reply": "answer"}
    assert "extends" not in dump_recipe(recipe)
    assert parse_recipe(dump_recipe(recipe)) == recipe


def test_overrides_come_last() -> None:
    """Of the lengths of a run, too."""
    recipe = parse_recipe('extends = "base"', {"train.iters": 3}, read_base=reader({"base": BASE}))

    assert (recipe.train.iters, recipe.train.epochs) == (3, None)


@pytest.mark.parametrize(
    ("text", "files", "problem"),
    [
        ("extends = 3", {}, "extends: found 3, expected the name of a recipe's file"),
        ('extends = ""', {}, "extends: found '', expected the name of a recipe's file"),
        ('extends = "none"', {}, "extends: found 'none', which is not there"),
        (
            'extends = "a"',
            {"a": 'extends = "b"', "b": 'extends = "a"'},
            "b: extends: found 'a', which leads back to itself (a -> b -> a); take one of them out",
        ),
        (
            'extends = "me"',
            {"me": ""},
            "extends: found 'me', which leads back to itself (me -> me); take one of them out",
        ),
        ('extends = "a"', {"a": "[data"}, "a: the recipe is not TOML"),
        ('extends = "a"', {"a": f"{BASE}\nitres = 3"}, "train.itres: unknown key; did you mean train.iters?"),
        ('extends = "a"', {"a": "[data]\nsplit = 'x'"}, "data.path: missing"),
        ('extend = "a"', {}, "extend: unknown section; did you mean extends?"),
        ('base = "a"', {}, "base: unknown section; did you mean extends?"),
    ],
)
def test_mistakes(text: str, files: dict[str, str], problem: str) -> None:
    """One sentence each, with the recipe in which it stands."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, name="me", read_base=reader(files))

    assert problem in str(caught.value).splitlines()[0] or problem in str(caught.value)


def test_without_files_there_is_nothing_to_extend() -> None:
    """A program says how recipes are read."""
    with pytest.raises(RecipeError, match=r"extends: found 'base.toml', and no file to look from"):
        parse_recipe(f'extends = "base.toml"\n{BASE}')
