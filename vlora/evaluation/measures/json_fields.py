"""Answers in JSON: whether they can be read, and which fields are right. Pure."""

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from ..prediction import Prediction
from .text import normalize

MOST_FIELDS = 32
"""Fields of one row that have a value of their own."""

_FENCED = re.compile(r"```(?:json|JSON)?\s*\n?(.*?)```", re.DOTALL)
_MISSING = object()


def json_valid(prediction: Prediction) -> float:
    """Whether the answer is JSON, fenced or not; an object or a list where the expected answer is one."""
    found, expected = read_json(prediction.answer), read_json(prediction.expected)
    kinds = (dict, list)
    return float(found is not _MISSING and (not isinstance(expected, kinds) or type(found) is type(expected)))


def json_fields(prediction: Prediction) -> dict[str, float] | None:
    """Give the share of fields that are right, and for each field of the outermost object its own share.

    A field is a value without fields of its own; those of lists are known by their places. Texts are compared
    normalized, numbers by their values. Fields that the answer has and the expected one has not count as wrong. A row
    whose expected answer is neither an object nor a list is left out.
    """
    expected = read_json(prediction.expected)
    if not isinstance(expected, (dict, list)):
        return None
    found = read_json(prediction.answer)
    values = {"json_fields": _share(expected, found)}
    if isinstance(expected, dict):
        inner = found if isinstance(found, dict) else {}
        for name in list(expected)[:MOST_FIELDS]:
            values[f"json_fields.{name}"] = _share(expected[name], inner.get(name, _MISSING))
    return values


def read_json(text: str) -> Any:
    """Read an answer as JSON, without the fence that models put around it; `_MISSING` where it is none."""
    fenced = _FENCED.search(text)
    for part in (text, fenced[1] if fenced else None):
        if part is not None:
            try:
                return json.loads(part, parse_constant=_refuse)
            except (ValueError, RecursionError):
                continue
    return _MISSING


def _refuse(constant: str) -> NoReturn:
    """NaN and Infinity are not JSON."""
    raise ValueError(constant)


def _share(expected: Any, found: Any) -> float:
    wanted, given = dict(_leaves(expected)), dict(_leaves(found))
    given.pop((), None) if found is _MISSING else None
    paths = wanted.keys() | given.keys()
    n_right = sum(path in given and _is_same(value, given[path]) for path, value in wanted.items())
    return n_right / len(paths)


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield every value without values of its own, and its path; an empty object or list is one."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not value or not isinstance(value, (dict, list)):
        yield path, value
    for key, item in inner:
        yield from _leaves(item, (*path, key))


def _is_same(expected: Any, found: Any) -> bool:
    if isinstance(expected, str) and isinstance(found, str):
        return normalize(expected) == normalize(found)
    if isinstance(expected, bool) or isinstance(found, bool) or type(expected) is type(found):
        return type(expected) is type(found) and bool(expected == found)
    numbers = (int, float)
    return isinstance(expected, numbers) and isinstance(found, numbers) and expected == found
