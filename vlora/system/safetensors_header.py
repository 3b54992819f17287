"""Headers of safetensors files, checked against the file before anything reads its arrays. Knows no MLX."""

import json
import math
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

WIDTHS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **dict.fromkeys(("F4", "F6_E2M3", "F6_E3M2"), 0),
}
"""Types of safetensors to their bits; 0 where what a shape counts is packed in more than one way."""

LONGEST = 256 << 20
"""Largest header in bytes; published ones have some megabytes at most."""

BEYOND = 2**63
"""An upper bound of byte counts."""

LENGTH = struct.Struct("<Q")
METADATA = "__metadata__"


class HeaderError(ValueError):
    """Why a file is not a safetensors file, or only part of one."""


@attrs.frozen
class Entry:
    """An array as a header describes it.

    Attributes:
        dtype: Its type, in safetensors' words.
        shape: Its shape.
        begin: The place of its first byte in the file.
        end: The place behind its last byte.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, Entry]:
    """Read the arrays that a header describes, and check them against the file's size.

    Raises:
        HeaderError: What is wrong with it, without the file's name.
        OSError: It cannot be read.
    """
    start, size, header = _read_object(path)
    return {name: _check(name, header[name], start, size) for name in header if name != METADATA}


def name_arrays(path: Path) -> list[str]:
    """Name the arrays of a file, whether or not it has the bytes of all of them.

    Raises:
        HeaderError: It has no header.
        OSError: It cannot be read.
    """
    return [name for name in _read_object(path)[2] if name != METADATA]


def read_metadata(path: Path) -> dict[str, str]:
    """Read what a file says of itself, such as the format that it was written for.

    Raises:
        HeaderError: It has no header.
        OSError: It cannot be read.
    """
    found = _read_object(path)[2].get(METADATA)
    return {key: value for key, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}


def _read_object(path: Path) -> tuple[int, int, Mapping[str, Any]]:
    """Give where arrays begin, how many bytes they have, and the header."""
    if not stat.S_ISREG(path.stat().st_mode):
        msg = "it is no regular file"
        raise HeaderError(msg)
    with path.open("rb") as file:
        size = path.stat().st_size - LENGTH.size
        first = file.read(LENGTH.size)
        length = LENGTH.unpack(first)[0] if len(first) == LENGTH.size else 0
        if not len("{}") <= length <= min(size, LONGEST):
            msg = "it is no safetensors file, or only a part of one"
            raise HeaderError(msg)
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        msg = "its header is no JSON"
        raise HeaderError(msg) from None
    if not isinstance(header, dict):
        msg = "its header is no object"
        raise HeaderError(msg)
    return LENGTH.size + length, size - length, header


def _check(name: str, entry: Any, start: int, size: int) -> Entry:
    """Check an array's type, its shape, and that the file has its bytes."""
    if not isinstance(entry, dict):
        raise _refuse(name, "is described by no object")
    dtype, shape, offsets = entry.get("dtype"), _counts(entry.get("shape")), _counts(entry.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        raise _refuse(name, f"has no type that is known ({str(dtype)[:20]!r})")
    if shape is None:
        raise _refuse(name, "has no shape")
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:  # noqa: PLR2004 - begin and end
        raise _refuse(name, "has no place in the file")
    if offsets[1] > size:
        raise _refuse(name, f"ends {offsets[1] - size:,} bytes beyond the file's end: it was not written whole")
    if (width := WIDTHS[dtype]) and math.prod(shape) * width != 8 * (offsets[1] - offsets[0]):
        raise _refuse(name, f"has {offsets[1] - offsets[0]:,} bytes, not those of its shape")
    return Entry(dtype, shape, start + offsets[0], start + offsets[1])


def _counts(value: Any) -> tuple[int, ...] | None:
    is_right = isinstance(value, list) and all(type(item) is int and 0 <= item < BEYOND for item in value)
    return tuple(value) if is_right else None


def _refuse(name: str, what: str) -> HeaderError:
    return HeaderError(f"its array {name[:200]!r} {what}")
