"""Imports of what carries out a recipe."""

import gc

import pytest

from vlora.cli.importing import importing
from vlora.errors import RecipeError
from vlora.recipe.parse import parse_recipe

RECIPE = """
[model]
path = "builtin:tiny-qwen3-vl"

[data]
path = "builtin:digits"
"""


@pytest.mark.parametrize("collects", [True, False])
def test_the_garbage_collector_waits_for_imports(collects: bool) -> None:
    """While a command's code is imported nothing is collected; then all is as it was, after a mistake too."""
    good = parse_recipe(RECIPE)
    before = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        with importing(good):
            assert not gc.isenabled()
        assert gc.isenabled() == collects
        with pytest.raises(RecipeError), importing(parse_recipe(RECIPE, {"data.split": "dev"})):
            pass
        assert gc.isenabled() == collects
        with pytest.raises(ZeroDivisionError), importing(good):
            1 / 0  # noqa: B018
        assert gc.isenabled() == collects
    finally:
        (gc.enable if before else gc.disable)()


def test_rows_are_looked_for_where_they_are_needed() -> None:
    """Rows that are not there are a mistake, but not to what works without rows."""
    recipe = parse_recipe(RECIPE, {"data.path": "none.jsonl"})

    with pytest.raises(RecipeError, match=r"data\.path: cannot read 'none\.jsonl'"), importing(recipe):
        pass
    with importing(recipe, needs_rows=False):
        pass
