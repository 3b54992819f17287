"""Objects for programs, one per line (`--json`). Pure.

An object has "event", the class's name, and the fields of the record under their names. Fields that a record does not
show of itself (`repr=False`) hold what is not for reading, and are left out.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import attrs

EVENT = "event"


def make_record(event: object, **fields: Any) -> dict[str, Any]:
    """Make an object of plain values.

    Args:
        event: A record of attrs, or what "event" is.
        fields: Further fields of the object.
    """
    if isinstance(event, str):
        return {EVENT: event, **to_plain(fields)}
    return {EVENT: type(event).__name__, **to_plain(event), **to_plain(fields)}


def write_record(record: Mapping[str, Any]) -> str:
    """Write an object in one line of ASCII."""
    return json.dumps(record, allow_nan=False)


def to_plain(value: Any) -> Any:
    """Convert a value to JSON's types: paths to strings, numbers that are not finite to null."""
    if attrs.has(type(value)):
        return {field.name: to_plain(getattr(value, field.name)) for field in attrs.fields(type(value)) if field.repr}
    if isinstance(value, Mapping):
        return {str(key): to_plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    # Numbers and arrays of NumPy have this method; NumPy itself is not imported, since that takes time.
    return to_plain(value.tolist()) if hasattr(value, "tolist") else str(value)
