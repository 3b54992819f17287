"""Parses the content of a message into texts, images and thoughts. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from ...errors import SampleError
from ..values import write_text
from .image_sizes import SIZE_KEYS, VIDEO_KEYS, Asked, read_asked
from .json_text import parse_if_json, show
from .marks import Mark, split_marks
from .pictures import list_images, repeats, unread_beside

_TEXT_KEYS = ("text", "content")
_THOUGHT_TYPES = ("thinking", "reasoning")
"""Types of content parts that are thoughts; the text is under the same key."""
_PICTURE_KEYS = ("image", "image_url", "url", "path")
_INDEX = "index"
_TEXT_TYPES = ("text", "input_text", "output_text")
_IMAGE_TYPES = ("image", "image_url", "input_image")
_PART_KEYS = {"type", "bytes", *_TEXT_KEYS, *_PICTURE_KEYS, *SIZE_KEYS, *VIDEO_KEYS}


@attrs.frozen(eq=False)
class Given:
    """An image that a content contains itself.

    Attributes:
        image: The image.
        asked: The size that the row requests for it.
    """

    image: Any
    asked: Asked | None = None


def unread_of_content(content: Any) -> dict[str, Any]:
    """Return the keys of content parts that are not read, as "content.detail"."""
    unread: dict[str, Any] = {}
    parts = content if isinstance(content, (list, tuple)) else [content]
    numbers = _number_parts(parts)
    for place, part in enumerate(parts):
        if isinstance(part, Mapping) and not _is_data(part):
            read = {_INDEX} if place in numbers else set()
            unread |= {f"content.{key}": value for key, value in _unread_of_part(part).items() if key not in read}
    return unread


def _number_parts(parts: Sequence[Any]) -> dict[int, int]:
    """Return the parts that choose an image of the row by "index", from 0: place of the part to number of the image.

    If texts have an index too, it counts the parts, and chooses no image.
    """
    images, others = dict[int, int](), False
    for place, part in enumerate(parts):
        index = part.get(_INDEX) if isinstance(part, Mapping) else None
        if isinstance(index, int) and not isinstance(index, bool):
            is_image = part.get("type") in _IMAGE_TYPES and not any(part.get(key) for key in ("bytes", *_PICTURE_KEYS))
            others |= not is_image
            images |= {place: int(index) + 1} if is_image else {}
    return {} if others else images


def _unread_of_part(part: Mapping[str, Any]) -> dict[str, Any]:
    if _is_thought(part):
        read = {"type", "text", *_THOUGHT_TYPES}
        return {key: value for key, value in part.items() if key not in read and value is not None}
    beside = {key: value for key, value in part.items() if key not in _PART_KEYS and value is not None}
    for name in _PICTURE_KEYS:
        beside |= {f"{name}.{key}": value for key, value in unread_beside(part.get(name)).items()}
    return beside


def parse_parts(content: Any) -> list[Any] | None:
    """Parse a content that is JSON of a list of parts; None if it is another one."""
    found = parse_if_json(content, "[") if isinstance(content, str) else None
    if not isinstance(found, list) or not found:
        return None
    are_parts = all(
        isinstance(part, Mapping) and part.get("type") in (*_TEXT_TYPES, *_IMAGE_TYPES) and not set(part) - _PART_KEYS
        for part in found
    )
    return found if are_parts else None


def _is_thought(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in _THOUGHT_TYPES


def take_thought(content: Any, where: str) -> tuple[Any, Any]:
    """Remove the thought from a content; it has to be the first part."""
    if not isinstance(content, (list, tuple)) or not any(map(_is_thought, content)):
        return content, None
    first, *rest = content
    if not _is_thought(first) or any(map(_is_thought, rest)):
        msg = f"{where} has a thought behind or between what is said; begin with the only one"
        raise SampleError(msg)
    return rest, only_one(first, (*_THOUGHT_TYPES, "text"), where)


def first_of(message: Mapping[str, Any], *keys: str) -> Any:
    """Return the first value that is not None; Arrow fills in None for keys that only other rows have."""
    return next((message[key] for key in keys if message.get(key) is not None), None)


def only_one(message: Mapping[str, Any], keys: Sequence[str], where: str) -> Any:
    """Return the value under one of several keys; different values under several of them are an error."""
    found = {key: message[key] for key in keys if message.get(key) is not None}
    values = list(found.values())
    if any(not repeats(values[:1], [value]) for value in values[1:]):
        msg = f"{where} holds different values under {' and '.join(map(repr, found))}; keep one"
        raise SampleError(msg)
    return values[0] if values else None


def read_content(content: Any, where: str, depth: int = 0) -> Iterator[str | Mark | Given]:
    """Yield the parts of a content: texts, marks of images, and images.

    Args:
        content: A text, a part, a list of parts, or data of the row's own.
        where: The row and the turn, for errors.
        depth: Number of lists around it.

    Raises:
        SampleError: The content has another type, or a part is not understood.
    """
    if content is None:
        return
    if isinstance(content, str):
        yield from split_marks(content)
    elif depth == 0 and _is_data(content):
        # An answer that is an object or a list of objects, and not a text.
        yield from split_marks(write_text(content, where))
    elif isinstance(content, Mapping):
        yield from _read_part(content, where)
    elif isinstance(content, Sequence) and not isinstance(content, bytes) and depth <= 1:
        numbers = _number_parts(content)
        for place, part in enumerate(content):
            for read in read_content(part, where, depth + 1):
                if isinstance(read, Mark) and place in numbers:
                    yield attrs.evolve(read, number=numbers[place])
                else:
                    yield read
    elif depth == 0 and isinstance(content, (int, float)):
        yield write_text(content, where)
    else:
        msg = f"{where} has the content {show(content)}, expected text or a list of parts"
        raise SampleError(msg)


def _is_data(content: Any) -> bool:
    """Whether a content is data, an object or a list of objects, and not a part or a list of parts."""
    if isinstance(content, Mapping):
        there = {key for key, value in content.items() if value is not None}
        return bool(there) and (there - _PART_KEYS != set()) and not isinstance(content.get("type"), str)
    return isinstance(content, (list, tuple)) and bool(content) and all(map(_is_data, content))


def _read_part(part: Mapping[str, Any], where: str) -> Iterator[str | Mark | Given]:
    kind = part.get("type")
    if kind is not None and kind not in (*_TEXT_TYPES, *_IMAGE_TYPES):
        msg = f"{where} has a part of type {kind!r}; vlora learns from text and images"
        raise SampleError(msg)
    text = only_one(part, _TEXT_KEYS, where)
    images = list_images(_picture_of(part, where))
    if images and text not in (None, ""):
        msg = f"{where} has a part that holds both text and an image, {show(dict(part))}; make two parts of it"
        raise SampleError(msg)
    if kind in _TEXT_TYPES or (kind is None and text is not None):
        if not isinstance(text, str) or images:
            msg = f"{where} has the text part {show(dict(part))}, expected a string under 'text'"
            raise SampleError(msg)
        yield from split_marks(text)
        return
    asked = read_asked(part, where)
    if not images:
        yield Mark("an image part", asked=asked)
    yield from (Given(image, asked) for image in images)


def _picture_of(part: Mapping[str, Any], where: str) -> Any:
    if part.get("bytes") is not None:
        return {"bytes": part["bytes"], "path": part.get("path")}
    return only_one(part, _PICTURE_KEYS, where)


def merge_texts(parts: Iterable[str | Mark | Given]) -> list[str | Mark | Given]:
    """Join adjacent texts, and drop empty ones."""
    merged: list[str | Mark | Given] = []
    for part in parts:
        last = merged[-1] if merged else None
        if isinstance(part, str) and isinstance(last, str):
            merged[-1] = last + part
        elif part != "":
            merged.append(part)
    return merged
