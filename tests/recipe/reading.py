"""A minimal recipe, and what is wrong with another one."""

from typing import Any

import pytest

from vlora import parse_recipe
from vlora.errors import RecipeError

MINIMAL = '[data]\npath = "rows.jsonl"\n'


def problems_of(text: str, overrides: dict[str, Any] | None = None) -> list[str]:
    """List the problems that `parse_recipe` reports."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, overrides)
    return str(caught.value).splitlines()
