"""Checks of single values in the JSON files of models. Pure.

Each check returns what a value must be, in words that follow the key and the value found, or None if the value is
valid. Null counts as absent.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from ...recipe.converter import Check, show

MOST_LAYERS = 10_000
MOST_EXPERTS = 100_000
WIDEST = 2**24
"""Larger than in any model; a dimension of MLX's arrays is at most 2**31 - 1."""

MOST = 2**31 - 1


def count(most: int, *, least: int = 1) -> Check:
    """A count; null counts as absent."""

    def check(value: Any) -> str | None:
        is_one = value is None or (type(value) is int and least <= value <= most)
        return None if is_one else f"must be an integer from {least} to {most}"

    return check


def counts(most: int) -> Check:
    """A count, or one for each layer or side."""

    def check(value: Any) -> str | None:
        items = value if isinstance(value, list) else [value]
        one = count(most)
        is_right = not any(item is None or one(item) for item in items) or value is None
        return None if is_right else f"must be an integer from 1 to {most}, or a list of such"

    return check


def number(value: Any) -> str | None:
    """A finite number."""
    is_one = value is None or (type(value) in (int, float) and math.isfinite(value) and abs(value) < 1e300)  # noqa: PLR2004
    return None if is_one else "must be a finite number"


def not_negative(value: Any) -> str | None:
    """A number that is not negative."""
    return number(value) or (None if value is None or value >= 0 else "must be at least 0")


def positive(value: Any) -> str | None:
    """A number greater than 0."""
    return number(value) or (None if value is None or value > 0 else "must be greater than 0")


def numbers(value: Any) -> str | None:
    """A number, or a list of them."""
    items = value if isinstance(value, list) else [value]
    is_wrong = value == [] or (isinstance(value, list) and None in value) or any(map(number, items))
    return "must be a finite number, or a list of such" if is_wrong else None


def scales(value: Any) -> str | None:
    """A number greater than 0, or a list of them."""
    items = value if isinstance(value, list) else [value]
    is_right = value != [] and not any(positive(item) for item in items) and (value is None or None not in items)
    return None if is_right else "must be a number greater than 0, or a list of such"


def mapping(value: Any) -> str | None:
    """An object."""
    return None if value is None or isinstance(value, Mapping) else "must be an object"


def schemes(value: Any) -> str | None:
    """How layers are quantized, by their names."""
    is_right = isinstance(value, Mapping) and all(
        isinstance(scheme, Mapping) and all(type(scheme.get(key)) is int for key in ("bits", "group_size"))
        for scheme in value.values()
    )
    return None if value is None or is_right else "must be an object of layers, each with its bits and group_size"


def text(value: Any) -> str | None:
    """A string."""
    return None if value is None or isinstance(value, str) else "must be a string"


def texts(value: Any) -> str | None:
    """A list of strings."""
    is_right = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return None if value is None or is_right else "must be a list of strings"


def token(value: Any) -> str | None:
    """A token, or an object that describes one."""
    is_right = value is None or isinstance(value, (str, Mapping))
    return None if is_right else "must be a string, or an object of an added token"


def ids(value: Any) -> str | None:
    """The id of a token, or a list of them."""
    items = value if isinstance(value, list) else [value]
    is_right = value is None or all(type(item) is int and -1 <= item <= MOST for item in items)
    return None if is_right else "must be the id of a token, or a list of such"


def size(value: Any) -> str | None:
    """The size of an image: a number of pixels, or several under their names."""
    if isinstance(value, Mapping):
        # One of the shortest and the longest edge may be absent.
        items = [item for item in value.values() if item is not None]
    else:
        items = value if isinstance(value, list) else [] if value is None else [value]
    is_right = value != [] and all(type(item) is int and 0 < item <= MOST for item in items)
    return None if is_right else "must be a number of pixels, or an object or a list of such"


def family_name(value: Any) -> str | None:
    """The name of a family."""
    is_right = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.-]+", value) and ".." not in value
    return None if is_right else "must be the name of a model's family"


def template(value: Any) -> str | None:
    """A chat template, or several under their names."""
    is_right = value is None or isinstance(value, (str, Mapping)) or not _templates(value)
    return None if is_right else "must be a template, or a list of named ones"


def _templates(value: Any) -> str | None:
    is_right = isinstance(value, list) and all(
        isinstance(item, Mapping) and isinstance(item.get("template"), str) and isinstance(item.get("name"), str)
        for item in value
    )
    return None if is_right else "must be a list of named templates"


def shards(value: Any) -> str | None:
    """The file of each array, which has to be within the folder."""
    if not isinstance(value, Mapping) or not value:
        return "must be an object with the file of each array"
    for array, file in value.items():
        parts = file.split("/") if isinstance(file, str) else []
        if not parts or "\0" in file or "\\" in file or not file.endswith(".safetensors") or {"", ".", ".."} & {*parts}:
            return f"must name a safetensors file within the folder for each array, not {show(file)} for {show(array)}"
    return None


def rope(value: Any) -> str | None:
    """A rotary embedding, or one for each type of layer."""
    if problem := mapping(value):
        return problem
    for key, item in (value or {}).items():
        if key not in _ROPE and (item is None or isinstance(item, (str, bool))):
            # Types and switches of single families.
            continue
        check = _ROPE.get(key, rope if isinstance(item, Mapping) else numbers)
        if problem := check(item):
            return f"has {key} = {show(item)}, which {problem}"
    return None


_ROPE: Mapping[str, Check] = {
    "rope_theta": positive,
    "factor": positive,
    "partial_rotary_factor": not_negative,
    "original_max_position_embeddings": positive,
    "mrope_section": counts(WIDEST),
    "type": text,
    "rope_type": text,
}
