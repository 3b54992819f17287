"""Values of a row as the text that is learned. Pure.

What stands in a file is what is learned: nothing here guesses types, rounds, or pads.
"""

import datetime as dt
import decimal
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import SampleError
from ..system.written_json import WrittenFloat, WrittenInt

Row = Mapping[str, Any]
"""Names of columns to values."""

_MEDIA_KEYS = {"bytes", "path"}
"""The keys of a picture or a sound as `datasets` stores them."""


def write_text(value: Any, where: str) -> str:
    """Write a value of a row as the text that is learned.

    | value | text |
    |---|---|
    | string | as it is |
    | number of JSON | as it is written in the file: `12.50`, `1e3`, 23 digits |
    | truth value | `true`, `false` |
    | object, list | JSON, spaced as Python does, characters as they are, values by this table; nothing is `null` |
    | integer of a typed table | its digits |
    | floating-point number of a typed table | the shortest that reads as the same number of its type: `0.1`, `3.0` |
    | decimal number of a typed table | all its digits: `12.50` |
    | date, time, timestamp of a typed table | ISO 8601: `2024-03-05`, `10:20:00`, `2024-03-05T10:20:00+00:00` |
    | class label | its name (`vlora.data.readers.typed_tables`) |
    | nothing, NaN, infinity, bytes, images, arrays, durations, anything else | refused |

    Args:
        value: What the row has.
        where: How an error names the value: the row and the column.

    Raises:
        SampleError: The value is not to be written as text.
    """
    if isinstance(value, str):
        return str(value)
    try:
        return _write_nested(value, where) if isinstance(value, (Mapping, list, tuple)) else _write_scalar(value, where)
    except RecursionError:
        msg = f"{where}: found lists and objects nested too deep to be written; give text"
        raise SampleError(msg) from None


def _write_scalar(value: Any, where: str) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (WrittenInt, WrittenFloat)):
        return value.spelling
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if isinstance(value, (float, np.floating)) and math.isfinite(value):
        # As itself and not as a double: 0.1 of four bytes is 0.1.
        return str(value)
    if isinstance(value, decimal.Decimal) and value.is_finite():
        return format(value, "f")
    if isinstance(value, (dt.date, dt.time)) and value == value:  # noqa: PLR0124 - NaT is not
        return value.isoformat()
    found = "nothing" if value is None else f"a value of type {type(value).__name__}"
    if isinstance(value, (float, np.floating, decimal.Decimal)):
        found = f"the number {value}"
    msg = f"{where}: found {found}, expected text, a number, a date or JSON; name a column that has it"
    raise SampleError(msg)


def _write_nested(value: Any, where: str) -> str:
    if isinstance(value, Mapping):
        if value.keys() == _MEDIA_KEYS:
            msg = f"{where}: found an image or another file, expected text; name a column that has it"
            raise SampleError(msg)
        pairs = (f"{_quote(str(key))}: {_write_nested(item, where)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_write_nested(item, where) for item in value) + "]"
    if value is None:
        return "null"
    if isinstance(value, (str, dt.date, dt.time)):
        return _quote(value if isinstance(value, str) else _write_scalar(value, where))
    return _write_scalar(value, where)


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
