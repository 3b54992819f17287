"""Imports of what carries out a recipe."""

import gc
import sys

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


@pytest.mark.parametrize("is_own", [True, False])
def test_what_was_imported_is_left_out_of_collections(is_own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the process is vlora's alone; another program's objects go on to be collected."""
    calls: list[bool] = []
    monkeypatch.setattr(gc, "freeze", lambda: calls.append(gc.isenabled()))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "vlora" if is_own else "pytest"])
    with importing(parse_recipe(RECIPE)):
        pass

    assert calls == [False] * is_own


def test_rows_are_looked_for_where_they_are_needed() -> None:
    """Rows that are not there are a mistake, but not to what works without rows."""
    recipe = parse_recipe(RECIPE, {"data.path": "none.jsonl"})

    with pytest.raises(RecipeError, match=r"data\.path: cannot read 'none\.jsonl'"), importing(recipe):
        pass
    with importing(recipe, needs_rows=False):
        pass
