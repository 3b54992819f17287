"""Reads the messages of a conversation one by one: role, parts of the content, and other keys. Pure.

`vlora.data.format.placement` assigns images to marks later: that depends on the earlier messages.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ...errors import SampleError
from ...recipe.columns import IMAGE_COLUMNS
from .content import Given, first_of, merge_texts, only_one, read_content, take_thought, unread_of_content
from .json_text import show
from .marks import Mark
from .pictures import row_images, unread_beside
from .tool_calls import CALL_KEYS, Call, find_calls, read_calls

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
"""Roles whose text is a tool call as JSON."""
MARK_KEYS = ("loss", "loss_mask", "loss_scale", "weight", "train", "training", "trainable")
"""Keys of messages that say whether a turn is learned: 1 and true that it is, 0 and false that it is not."""
UNCLEAR_MARK_KEYS = ("mask", "masked", "assistant_mask")
"""Keys that different trainers read in opposite ways."""
THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")
"""Keys of messages that hold what the assistant thinks before it answers."""

_ROLE_KEYS = ("role", "from")
_CONTENT_KEYS = ("content", "value")
_MESSAGE_KEYS = {
    *(*_ROLE_KEYS, *_CONTENT_KEYS, *CALL_KEYS),
    *(*MARK_KEYS, *THOUGHT_KEYS, *IMAGE_COLUMNS, *UNCLEAR_MARK_KEYS),
}
_TOOL_KEYS = {"name", "tool_call_id"}
"""Keys that a tool's message may have."""

Message = Mapping[str, Any]


@attrs.frozen(eq=False)
class Draft:
    """A turn whose images have no number yet.

    Attributes:
        role: As in `Turn`.
        parts: Texts, marks of images, and images.
        images: Images in the message beside its content.
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
    """Return the keys of messages and of their content parts that are not read, as "name", "content.detail"."""
    unread: dict[str, Any] = {}
    for message in messages:
        read = _MESSAGE_KEYS | _TOOL_KEYS if find_role(message) == "tool" else _MESSAGE_KEYS
        unread |= {str(key): value for key, value in message.items() if key not in read and value is not None}
        for name in IMAGE_COLUMNS:
            unread |= {f"{name}.{key}": value for key, value in unread_beside(message.get(name)).items()}
        unread |= unread_of_content(first_of(message, *_CONTENT_KEYS))
    return unread


def read_message(message: Message, where: str) -> Draft:
    """Read a message.

    Args:
        message: As `list_messages` gives it.
        where: The row and the turn, for errors.

    Raises:
        SampleError: Its role, its content, its calls, its thought or its mark is not understood.
    """
    role = find_role(message)
    only_one(message, _ROLE_KEYS, where)
    if role is None:
        msg = f"{where} has the role {first_of(message, *_ROLE_KEYS)!r}, expected one of {', '.join(ROLES)}"
        raise SampleError(msg)
    images = _inside(message, where)
    content, calls = only_one(message, _CONTENT_KEYS, where), _read_calls(message, where)
    content, inner = take_thought(content, where)
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
    parts = merge_texts(read_content(content, where))
    is_empty = all(isinstance(part, str) and not part.strip() for part in parts) and not (calls or images)
    if is_empty and thought is not None and not thought.strip():
        msg = f"{where} holds an empty thought and nothing else, so that only an end would be learned; take it out"
        raise SampleError(msg)
    name, call_id = (
        _read_tool_key(message, key, where) if role == "tool" else None for key in ("name", "tool_call_id")
    )
    return Draft(role, tuple(parts), images, thought, calls, _read_mark(message, where), name, call_id)


def _name_role(message: Message) -> str:
    return str(first_of(message, *_ROLE_KEYS)).strip().lower()


def find_role(message: Message) -> str | None:
    """Return the role of a message, in the names of `Turn`; None if it has no known role."""
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
    """Return whether a message may be learned: True unless it is marked otherwise."""
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
    """Return the content of a message, under any of its names; None if it has none."""
    return first_of(message, *_CONTENT_KEYS)
