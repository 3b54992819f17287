"""Recognizes values that look like images, by their names or contents. Pure: no image is opened."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..readers.inline_images import HEAD, begins_picture, is_inline
from .json_text import parse_if_json

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".jp2", ".ppm", ".pgm", ".tga", ".ico"),
)

_NAMES = re.compile(
    r"(image|img|picture|pic|photo)s?([ _-]?(path|file|file[ _-]?name|url|uri|link|byte|data|base64|b64)s?)?"
    r"([ _-]?\d+)?|pixel_values",
    re.IGNORECASE,
)
"""Names of columns that hold images, as data sets have them."""
_LONGEST_NAME = 2048
_DEPTH = 4


def looks_like_pictures(column: str, value: Any) -> bool:
    """Whether a column holds images, judged by its name or its values."""
    if value is None or (isinstance(value, (str, bytes, Sequence, Mapping)) and not value):
        return False
    named = _NAMES.fullmatch(column.strip()) is not None and not isinstance(value, (bool, int, float))
    return named or any(_is_picture(leaf) for leaf in _leaves(value, _DEPTH))


def _leaves(value: Any, depth: int) -> Iterator[Any]:
    if isinstance(value, str):
        found = parse_if_json(value, "[{") if len(value) <= _LONGEST_NAME else None
        value = value if found is None else found
    if depth and isinstance(value, Mapping):
        yield from (leaf for item in value.values() for leaf in _leaves(item, depth - 1))
    elif depth and isinstance(value, (list, tuple)):
        # Lists of numbers may be long; images show in the first items.
        yield from (leaf for item in value[:8] for leaf in _leaves(item, depth - 1))
    else:
        yield value


def _is_picture(value: Any) -> bool:
    if isinstance(value, (bytes, bytearray)):
        return begins_picture(bytes(value[:HEAD]))
    if isinstance(value, str):
        return _names_picture(value) or is_inline(value)
    # Images of Pillow, without importing Pillow.
    return hasattr(value, "getbands") and hasattr(value, "size")


def _names_picture(text: str) -> bool:
    if len(text) > _LONGEST_NAME or "\n" in text:
        return False
    name = text.partition("?")[0] if "://" in text else text
    return name.lower().endswith(SUFFIXES)
