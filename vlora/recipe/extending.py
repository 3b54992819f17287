"""Recipes that extend others: `extends = "base.toml"`, and the values of all of them together. Pure.

Files are read by the function that is passed in. The key of the nearer recipe replaces that of the farther one as a
whole, a list or a table too; of `train.iters` and `train.epochs`, and of `data.path` and `data.sources`, either
replaces the other.
"""

import tomllib
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import RecipeError
from .converter import show

EXTENDS = "extends"
"""The key, outside of all sections, that names the recipe to begin with."""

LENGTHS = ("iters", "epochs")
"""The keys of [train] that say how long a run is; a recipe names one of them."""

ALTERNATIVES = {"train": LENGTHS, "data": ("path", "sources")}
"""Keys of sections of which a recipe names one."""

ReadBase = Callable[[str, str], tuple[str, str]]
"""Takes a recipe's name and what it extends, and gives that one's name, the same however it was spelled, and text.

Raises:
    RecipeError: It cannot be read.
"""


def read_toml(text: str) -> dict[str, Any]:
    """Read TOML.

    Raises:
        RecipeError: It is none.
    """
    try:
        return tomllib.loads(text)
    except ValueError as error:
        # Not only of TOML's own: Python reads no number of thousands of digits.
        is_name = "\n" not in text and text.endswith(".toml")
        hint = "; give the text of the file, not its name" if is_name else ""
        msg = f"the recipe is not TOML: {str(error).partition(';')[0]}{hint}"
        raise RecipeError(msg) from None
    except RecursionError:
        msg = "the recipe is not TOML that can be read: it is nested too deeply"
        raise RecipeError(msg) from None


def read_extended(text: str, name: str, read_base: ReadBase | None) -> dict[str, Any]:
    """Read a recipe with all that it extends, as nested dicts.

    Args:
        text: The recipe, TOML.
        name: What it is known by, as `read_base` gives names.
        read_base: Reads what a recipe extends; None where there is nothing to read from.

    Raises:
        RecipeError: One of them is not TOML or not there, or they extend one another in a circle.
    """
    raw = read_toml(text)
    chain, names = [raw], [name]
    while EXTENDS in raw:
        wanted = raw.pop(EXTENDS)
        where = f"{names[-1]}: {EXTENDS}" if len(names) > 1 else EXTENDS
        if not isinstance(wanted, str) or not wanted:
            msg = f"{where}: found {show(wanted)}, expected the name of a recipe's file"
            raise RecipeError(msg)
        if read_base is None:
            msg = f"{where}: found {wanted!r}, and no file to look from; give `parse_recipe` a function that reads it"
            raise RecipeError(msg)
        base, text = read_base(names[-1], wanted)
        if base in names:
            circle = " -> ".join([*names[names.index(base) :], base])
            msg = f"{where}: found {wanted!r}, which leads back to itself ({circle}); take one of them out"
            raise RecipeError(msg)
        try:
            raw = read_toml(text)
        except RecipeError as error:
            msg = f"{base}: {error}"
            raise RecipeError(msg) from None
        chain.append(raw)
        names.append(base)
    merged: dict[str, Any] = {}
    for later in reversed(chain):
        merged = _merge(merged, later)
    return merged


def _merge(base: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for section, keys in later.items():
        before = merged.get(section)
        if isinstance(before, dict) and isinstance(keys, dict):
            names = ALTERNATIVES.get(section, ())
            if keys.keys() & set(names):
                before = {key: value for key, value in before.items() if key not in names}
            merged[section] = {**before, **keys}
        else:
            merged[section] = keys
    return merged
