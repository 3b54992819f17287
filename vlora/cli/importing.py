"""Slow imports, made after the recipe's rows were found, with the garbage collector paused."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from ..recipe.schema import Recipe


@contextmanager
def importing(recipe: Recipe, *, needs_rows: bool = True) -> Iterator[None]:
    """Check quickly that a recipe's rows exist, then pause the garbage collector for the imports within the `with`.

    Imports create no garbage, and collections take a tenth of their time.

    Args:
        recipe: Names the rows.
        needs_rows: False for commands that also work without rows.

    Raises:
        RecipeError: The rows are not there.
    """
    from ..data.recipe_rows import check_rows

    if needs_rows:
        check_rows(recipe.data)
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
