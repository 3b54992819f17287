"""Slow imports, made after the recipe's rows were found, with the garbage collector paused."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..recipe.schema import Recipe
from .small_blocks import is_all


@contextmanager
def importing(recipe: Recipe, *, needs_rows: bool = True) -> Iterator[None]:
    """Check quickly that a recipe's rows exist, then pause the garbage collector for the imports within the `with`.

    Imports create no garbage, and collections take a tenth of their time. In a process of vlora's own, what they made
    is left out of later collections too: of the quickstart's first 40 steps these took 0.65 s with it, and 0.15
    without it (2 cores).

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
        if is_all(sys.orig_argv):
            # It stays until the process ends.
            gc.freeze()
        if collects:
            gc.enable()
