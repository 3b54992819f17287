"""The forms in which rows give images. Pure: no image is opened."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import SampleError
from ...recipe.columns import IMAGE_COLUMNS, UNUSED
from ..readers.inline_images import is_inline
from ..values import Row
from .json_text import parse_if_json

_NAME_KEYS = ("url", "path", "image", "image_url")
"""Keys for the name of an image in an object that stands for it."""
_OBJECT_KEYS = {*_NAME_KEYS, "bytes", "type"}


def list_images(value: Any) -> list[Any]:
    """List the images of a value: nested lists and JSON of lists are flattened, None and "" are left out."""
    if isinstance(value, str):
        found = parse_if_json(value, "[{")
        value = value if found is None else found
    if isinstance(value, (list, tuple)) and not _is_array(value):
        return [image for item in value for image in list_images(item)]
    image = _unwrap(value)
    return [] if image is None or (isinstance(image, str) and not image) else [image]


def row_images(row: Row) -> list[tuple[str, list[Any]]]:
    """Return the columns of a row, or the keys of a message, that hold images, with their images."""
    found = ((column, list_images(row.get(column))) for column in IMAGE_COLUMNS)
    return [(column, images) for column, images in found if images]


def are_same(one: Any, other: Any) -> bool:
    """Whether two values may be the same image; for bytes and decoded pictures this is unknown, and True."""
    return not (isinstance(one, str) and isinstance(other, str)) or file_name(one) == file_name(other)


def file_name(image: Any) -> str | None:
    """Return the last part of an image's name; None if it has none."""
    if isinstance(image, Mapping):
        image = image.get("path")
    if not isinstance(image, str) or not image or is_inline(image):
        return None
    return image.rstrip("/").rpartition("/")[2].rpartition("\\")[2]


def unread_beside(value: Any) -> dict[str, Any]:
    """Return the keys beside an image's name in an object ({"url", "detail"}) that are not read."""
    if isinstance(value, str):
        value = parse_if_json(value, "[{")
    if isinstance(value, (list, tuple)):
        items = (item for item in value if isinstance(item, (str, list, tuple, Mapping)))
        return {key: found for item in items for key, found in unread_beside(item).items()}
    if not isinstance(value, Mapping) or all(value.get(key) is None for key in (*_NAME_KEYS, "bytes")):
        # No image's, as a whole.
        return {}
    inner = {key: found for name in _NAME_KEYS for key, found in _beside_inner(value.get(name)).items()}
    return inner | {str(key): found for key, found in value.items() if key not in _OBJECT_KEYS and found is not None}


def _beside_inner(value: Any) -> dict[str, Any]:
    return unread_beside(value) if isinstance(value, Mapping) else {}


def repeats(images: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether a column begins with the images of another one."""
    try:
        return len(other) <= len(images) and all(bool(one == two) for one, two in zip(images, other, strict=False))
    except ValueError:
        # Arrays compare element by element.
        return False


def _is_array(value: Sequence[Any]) -> bool:
    """Whether nested lists are the numbers of one picture, which are refused when images are read."""
    first = value[0] if value else None
    return isinstance(first, (list, tuple)) and bool(first) and _begins_with_number(first)


def _begins_with_number(value: Any) -> bool:
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _unwrap(image: Any) -> Any:
    """Unwrap {"url": ...} and {"path": ...}."""
    if isinstance(image, Mapping) and image.get("bytes") is None:
        name = next((image[key] for key in _NAME_KEYS if image.get(key)), None)
        if name is None:
            # Other forms are refused when images are read.
            return image if any(value is not None for value in image.values()) else None
        return _unwrap(name)
    return image


def own_images(row: Row, source: str) -> list[Any]:
    """List a row's images.

    Raises:
        SampleError: Two columns hold different images.
    """
    found = row_images(row)
    if len(found) > 1 and not repeats(found[0][1], found[1][1]):
        names = " and ".join(repr(column) for column, _ in found)
        msg = (
            f"{source}: the columns {names} both hold images, and not the same; map both to 'images' in data.columns, "
            f'or one to "{UNUSED}"'
        )
        raise SampleError(msg)
    return found[0][1] if found else []
