"""Messages of a conversation, read one by one: who speaks, the parts of the content, what stands beside it. Pure.

Which image stands at a mark is settled later (`vlora.data.format.placement`): it depends on the messages before.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from ...errors import SampleError
from .image_sizes import SIZE_KEYS, VIDEO_KEYS, Asked, read_asked
from .json_text import parse_if_json, show
from .marks import Mark, split_marks
from .pictures import IMAGE_COLUMNS, list_images, repeats, row_images, unread_beside
from .tool_calls import CALL_KEYS, Call, find_calls, read_calls
from .values import write_text

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "<|user|>": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "<|assistant|>": "assistant",
    "tool": "tool",
    "developer": "system",
    "function_call": "assistant",
    "tool_call": "assistant",
    "observation": "tool",
    "function": "tool",
    "tool_response": "tool",
}
CALLING_ROLES = ("function_call", "tool_call")
"""Roles whose text is the call of a tool, as JSON."""
MARK_KEYS = ("loss", "loss_mask", "loss_scale", "weight", "train", "training", "trainable")
"""Keys of messages that say whether a turn is learned: 1 and true that it is, 0 and false that it is not."""
UNCLEAR_MARK_KEYS = ("mask", "masked", "assistant_mask")
"""Keys that trainers read as the one and as the other."""
THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")
"""Keys of messages that hold what the assistant thinks before it answers."""

_ROLE_KEYS = ("role", "from")
_CONTENT_KEYS = ("content", "value")
_TEXT_KEYS = ("text", "content")
_THOUGHT_TYPES = ("thinking", "reasoning")
"""Types of the part of a content that is a thought; its text stands under the same name."""
_PICTURE_KEYS = ("image", "image_url", "url", "path")
_INDEX = "index"
_TEXT_TYPES = ("text", "input_text", "output_text")
_IMAGE_TYPES = ("image", "image_url", "input_image")
_PART_KEYS = {"type", "bytes", *_TEXT_KEYS, *_PICTURE_KEYS, *SIZE_KEYS, *VIDEO_KEYS}
_MESSAGE_KEYS = {
    *(*_ROLE_KEYS, *_CONTENT_KEYS, *CALL_KEYS),
    *(*MARK_KEYS, *THOUGHT_KEYS, *IMAGE_COLUMNS, *UNCLEAR_MARK_KEYS),
}
_TOOL_KEYS = {"name", "tool_call_id"}
"""What a tool's message may say of itself."""

Message = Mapping[str, Any]


@attrs.frozen(eq=False)
class Given:
    """An image that a content names itself.

    Attributes:
        image: The image.
        asked: The size that the row asks for it.
    """

    image: Any
    asked: Asked | None = None


@attrs.frozen(eq=False)
class Draft:
    """A turn whose images have no number yet.

    Attributes:
        role: As in `Turn`.
        parts: Texts, marks of images, and images.
        images: Those that stand in the message beside its content.
        thought: As in `Turn`, as are the next four.
        calls: See above.
        learned: See above.
        name: See above.
        call_id: See above.
    """

    role: str
    parts: tuple[str | Mark | Given, ...]
    images: tuple[Any, ...] = ()
    thought: str | None = None
    calls: tuple[Call, ...] = ()
    learned: bool = True
    name: str | None = None
    call_id: str | None = None


def unread_keys(messages: Sequence[Message]) -> dict[str, Any]:
    """Give what nothing reads of messages and of the parts of their contents: names as "name", "content.detail"."""
    unread: dict[str, Any] = {}
    for message in messages:
        read = _MESSAGE_KEYS | _TOOL_KEYS if find_role(message) == "tool" else _MESSAGE_KEYS
        unread |= {str(key): value for key, value in message.items() if key not in read and value is not None}
        for name in IMAGE_COLUMNS:
            unread |= {f"{name}.{key}": value for key, value in unread_beside(message.get(name)).items()}
        content = _first(message, *_CONTENT_KEYS)
        parts = content if isinstance(content, (list, tuple)) else [content]
        numbers = _number_parts(parts)
        for place, part in enumerate(parts):
            if isinstance(part, Mapping) and not _is_data(part):
                read = {_INDEX} if place in numbers else set()
                unread |= {f"content.{key}": value for key, value in _unread_of_part(part).items() if key not in read}
    return unread


def _number_parts(parts: Sequence[Any]) -> dict[int, int]:
    """Give the parts that say by "index" which of the row's images they show, from 0: by place, the image's number.

    Where texts have an index too it counts the parts.
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


def read_message(message: Message, where: str) -> Draft:
    """Read a message.

    Args:
        message: As `list_messages` gives it.
        where: The row and the turn, for errors.

    Raises:
        SampleError: Its role, its content, its calls, its thought or its mark is not understood.
    """
    role = find_role(message)
    _only(message, _ROLE_KEYS, where)
    if role is None:
        msg = f"{where} has the role {_first(message, *_ROLE_KEYS)!r}, expected one of {', '.join(ROLES)}"
        raise SampleError(msg)
    images = _inside(message, where)
    content, calls = _only(message, _CONTENT_KEYS, where), _read_calls(message, where)
    content, inner = _take_thought(content, where)
    thought = _read_thought(message, inner, where)
    if not calls and _name_role(message) in CALLING_ROLES and isinstance(content, str):
        calls = find_calls(content)
        content = None if calls else content
    if content is None and not calls and thought is None and not images:
        msg = f"{where} has no content; its keys are {', '.join(map(str, message))}"
        raise SampleError(msg)
    if role != "assistant" and (calls or thought is not None):
        msg = f"{where} is the {role}'s and holds tool calls or a thought, which only the assistant has"
        raise SampleError(msg)
    parts = merge_texts(_read_content(content, where))
    is_empty = all(isinstance(part, str) and not part.strip() for part in parts) and not (calls or images)
    if is_empty and thought is not None and not thought.strip():
        msg = f"{where} holds an empty thought and nothing else, so that only an end would be learned; take it out"
        raise SampleError(msg)
    name, call_id = (
        _read_tool_key(message, key, where) if role == "tool" else None for key in ("name", "tool_call_id")
    )
    return Draft(role, tuple(parts), images, thought, calls, _read_mark(message, where), name, call_id)


def _name_role(message: Message) -> str:
    return str(_first(message, *_ROLE_KEYS)).strip().lower()


def find_role(message: Message) -> str | None:
    """Give the role of a message, as turns have it; None if it is none."""
    return ROLES.get(_name_role(message))


def _read_tool_key(message: Message, key: str, where: str) -> str | None:
    value = message.get(key)
    if value is not None and not isinstance(value, str):
        msg = f"{where} holds {show(value)} under {key!r}, expected a text"
        raise SampleError(msg)
    return value or None


def _inside(message: Message, where: str) -> tuple[Any, ...]:
    found = row_images(message)
    if len(found) > 1:
        msg = f"{where} holds images under {' and '.join(repr(key) for key, _ in found)}; keep one"
        raise SampleError(msg)
    return tuple(found[0][1]) if found else ()


def _read_calls(message: Message, where: str) -> tuple[Call, ...]:
    found = [key for key in CALL_KEYS if message.get(key)]
    if len(found) > 1:
        msg = f"{where} holds tool calls under {' and '.join(map(repr, found))}; keep one"
        raise SampleError(msg)
    return read_calls(message[found[0]], where) if found else ()


def _is_thought(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in _THOUGHT_TYPES


def _take_thought(content: Any, where: str) -> tuple[Any, Any]:
    """Take the part that is a thought out of a content; it stands before what is said."""
    if not isinstance(content, (list, tuple)) or not any(map(_is_thought, content)):
        return content, None
    first, *rest = content
    if not _is_thought(first) or any(map(_is_thought, rest)):
        msg = f"{where} has a thought behind or between what is said; begin with the only one"
        raise SampleError(msg)
    return rest, _only(first, (*_THOUGHT_TYPES, "text"), where)


def _read_thought(message: Message, inner: Any, where: str) -> str | None:
    found = {key: message[key] for key in THOUGHT_KEYS if message.get(key) not in (None, "")}
    found |= {"content": inner} if inner not in (None, "") else {}
    for key, thought in found.items():
        if not isinstance(thought, str):
            msg = f"{where} holds {show(thought)} under {key!r}, expected a text"
            raise SampleError(msg)
    if len(set(found.values())) > 1:
        msg = f"{where} holds different thoughts under {' and '.join(map(repr, found))}; keep one"
        raise SampleError(msg)
    return next(iter(found.values()), None)


def _read_mark(message: Message, where: str) -> bool:
    """Say whether a message may be learned."""
    for key in UNCLEAR_MARK_KEYS:
        if message.get(key) is not None:
            msg = (
                f"{where} holds {key!r}, which some read as learned and some as left out; write 'loss': 1 if it is "
                "learned and 'loss': 0 if it is not"
            )
            raise SampleError(msg)
    found = {key: message[key] for key in MARK_KEYS if message.get(key) is not None}
    for key, mark in found.items():
        if not isinstance(mark, (int, float)) or mark not in (0, 1):
            msg = f"{where} holds {show(mark)} under {key!r}, expected 0 or false (not learned), 1 or true (learned)"
            raise SampleError(msg)
    if len({bool(mark) for mark in found.values()}) > 1:
        msg = f"{where} is marked as learned and as not learned by {' and '.join(map(repr, found))}; keep one"
        raise SampleError(msg)
    return all(found.values())


def find_content(message: Message) -> Any:
    """Give the content of a message, under whatever name; None if it has none."""
    return _first(message, *_CONTENT_KEYS)


def _first(message: Message, *keys: str) -> Any:
    """Give the first value that is there; Arrow fills in None for keys that only other rows have."""
    return next((message[key] for key in keys if message.get(key) is not None), None)


def _only(message: Message, keys: Sequence[str], where: str) -> Any:
    """Give the value that stands under one of some keys; of different ones under several one would be lost."""
    found = {key: message[key] for key in keys if message.get(key) is not None}
    values = list(found.values())
    if any(not repeats(values[:1], [value]) for value in values[1:]):
        msg = f"{where} holds different values under {' and '.join(map(repr, found))}; keep one"
        raise SampleError(msg)
    return values[0] if values else None


def _read_content(content: Any, where: str, depth: int = 0) -> Iterator[str | Mark | Given]:
    if content is None:
        return
    if isinstance(content, str):
        yield from split_marks(content)
    elif depth == 0 and _is_data(content):
        # An answer that is an object or a list of objects, not in a text.
        yield from split_marks(write_text(content, where))
    elif isinstance(content, Mapping):
        yield from _read_part(content, where)
    elif isinstance(content, Sequence) and not isinstance(content, bytes) and depth <= 1:
        numbers = _number_parts(content)
        for place, part in enumerate(content):
            for read in _read_content(part, where, depth + 1):
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
    """Whether a content is an object of its own, or a list of such, and no part or list of parts."""
    if isinstance(content, Mapping):
        there = {key for key, value in content.items() if value is not None}
        return bool(there) and (there - _PART_KEYS != set()) and not isinstance(content.get("type"), str)
    return isinstance(content, (list, tuple)) and bool(content) and all(map(_is_data, content))


def _read_part(part: Mapping[str, Any], where: str) -> Iterator[str | Mark | Given]:
    kind = part.get("type")
    if kind is not None and kind not in (*_TEXT_TYPES, *_IMAGE_TYPES):
        msg = f"{where} has a part of type {kind!r}; vlora learns from text and images"
        raise SampleError(msg)
    text = _only(part, _TEXT_KEYS, where)
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
    return _only(part, _PICTURE_KEYS, where)


def merge_texts(parts: Iterable[str | Mark | Given]) -> list[str | Mark | Given]:
    """Make one text of those that follow each other, and leave out empty ones."""
    merged: list[str | Mark | Given] = []
    for part in parts:
        last = merged[-1] if merged else None
        if isinstance(part, str) and isinstance(last, str):
            merged[-1] = last + part
        elif part != "":
            merged.append(part)
    return merged
