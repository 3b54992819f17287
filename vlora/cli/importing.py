"""The imports of what carries out a recipe: after its rows were found, and without the garbage collector."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from ..recipe.schema import Recipe


@contextmanager
def importing(recipe: Recipe, *, needs_rows: bool = True) -> Iterator[None]:
    """Look for a recipe's rows, which is quick; then import within the `with` what reads and learns them, which is not.

    The garbage collector pauses: modules hold no garbage, and looking for it takes a tenth of the time.

    Args:
        recipe: Names the rows.
        needs_rows: False for what works without rows, too.

    Raises:
        RecipeError: The rows are not there.
    """
    from ..data.opening import check_paths

    if needs_rows:
        check_paths(recipe.data)
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
