"""The arrays that layers keep of the tokens that they have read, whatever the kind of their caches."""

from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import mlx.core as mx


def find_arrays(caches: Sequence[Any]) -> list[mx.array]:
    """List the arrays of some caches, always in one order."""
    return [owner[key] if isinstance(owner, list) else getattr(owner, key) for owner, key in _places(caches)]


def put_arrays(caches: Sequence[Any], arrays: Sequence[mx.array]) -> None:
    """Put arrays where `find_arrays` has found as many."""
    for (owner, key), value in zip(list(_places(caches)), arrays, strict=False):
        if isinstance(owner, list):
            owner[key] = value
        else:
            setattr(owner, key, value)


def _places(caches: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Name the places of arrays: (an object and its attribute, or a list and its place)."""
    for cache in caches:
        if attrs.has(type(cache)):
            names = [field.name for field in attrs.fields(type(cache))]
        else:
            names = sorted(getattr(cache, "__dict__", ()))
        for name in names:
            value = getattr(cache, name)
            if isinstance(value, mx.array):
                yield cache, name
            elif isinstance(value, list):
                yield from ((value, place) for place, entry in enumerate(value) if isinstance(entry, mx.array))
                yield from _places([entry for entry in value if not isinstance(entry, mx.array)])
            elif isinstance(value, tuple):
                # Caches of several kinds that one layer has.
                yield from _places(value)
