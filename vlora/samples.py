"""From a dataset row to a `Sample`: who said what, and where the images stand. Pure.

Every layout that data sets and other trainers use comes in here; none goes further, so that the model
side has one format to render. Images are not opened.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from .calls import find_calls, read_calls, read_tools
from .errors import SampleError
from .jsontext import show
from .types import ImageSlot, Sample, Turn
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
THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")
"""Keys of messages that hold what the assistant thinks before it answers."""
_CONTENT_KEYS = ("content", "value")
_CALL_KEYS = ("tool_calls", "function_call")
IMAGE_TAG = "<image>"
_IMAGE_KEYS = ("image", "image_url", "url", "path", "bytes")
_COLUMN = re.compile(r"\{(\w+)\}")

Row = Mapping[str, Any]


@attrs.define
class _Images:
    """The images of a row while its turns are read."""

    waiting: list[Any]
    source: str
    placed: list[Any] = attrs.field(factory=list)

    def place(self, image: Any) -> ImageSlot:
        self.placed.append(image)
        return ImageSlot(len(self.placed) - 1)

    def take(self, marker: str) -> ImageSlot:
        if not self.waiting:
            msg = (
                f"{self.source}: {marker} has no image; the row's image columns hold "
                f"{len(self.placed)}, give one image per marker"
            )
            raise SampleError(msg)
        return self.place(self.waiting.pop(0))


def format_sample(row: Row, source: str = "row", custom_prompt_format: str | None = None) -> Sample:
    """Read a row of any accepted layout.

    Layouts: `messages` or `conversations` (role/content or from/value, images beside them, inside the
    content, or inside the message), `question` + `answer`, `prefix` + `suffix`, or any columns through a custom
    format. Images come from `images` or `image`; `<image>` in a text marks the place of the next one, and images that
    no marker names stand at the start of the first user turn. `system` and `tools` stand beside any conversation.

    A message may hold what the assistant thinks (`reasoning_content`), the tools that it calls (`tool_calls`, or the
    role `function_call` and JSON) and a mark of whether it is learned (`loss`, `weight`, `train`, ...: 0 or 1).

    Args:
        row: Column names to values; images as paths, URLs, bytes, PIL images or `{"bytes", "path"}`.
        source: How error messages name the row.
        custom_prompt_format: JSON of messages in which `{column}` stands for a column's value; a value
            that is `{image}` or `{images}` alone stands for the row's images.

    Raises:
        SampleError: No conversation in the row, an unknown role, no assistant turn, or markers and
            images that do not match.
    """
    images = _Images(waiting=list(_row_images(row)), source=source)
    if custom_prompt_format is not None:
        messages = _fill_format(json.loads(custom_prompt_format), row, source)
    else:
        messages = _row_messages(row, source)
    turns = [_read_turn(message, images, number) for number, message in enumerate(_list_messages(messages, source), 1)]
    turns = _put_system_first(_place_rest(turns, images), row.get("system"), source)
    if not any(turn.role == "assistant" and (turn.text or turn.calls) for turn in turns):
        msg = f"{source}: there is no assistant turn with text; there is nothing to learn from"
        raise SampleError(msg)
    tools = read_tools(row.get("tools"), source)
    return Sample(source=source, turns=tuple(turns), images=tuple(images.placed), tools=tools)


def _put_system_first(turns: list[Turn], system: Any, source: str) -> list[Turn]:
    """Begin a conversation with the system prompt of the row's column, if it has one."""
    if system is None or system == "":
        return turns
    if not isinstance(system, str):
        msg = f"{source}: found {show(system)} in the column 'system', expected a text"
        raise SampleError(msg)
    own = [turn.text for turn in turns if turn.role == "system"]
    if own and own != [system]:
        msg = f"{source}: the column 'system' and a turn of the conversation both hold a system prompt; take one out"
        raise SampleError(msg)
    return turns if own else [Turn("system", (system,)), *turns]


def _row_images(row: Row) -> Iterator[Any]:
    for column in ("images", "image"):
        value = row.get(column)
        if value is None:
            continue
        found = value if isinstance(value, (list, tuple)) else [value]
        # An empty name is how CSV says that there is none.
        yield from (item for item in found if item is not None and not (isinstance(item, str) and item == ""))
        return


def _row_messages(row: Row, source: str) -> Any:
    for column in ("messages", "conversations", "conversation"):
        if row.get(column) is not None:
            value = row[column]
            return _parse_messages(value, source) if isinstance(value, str) else value
    for question, answer in (("question", "answer"), ("prefix", "suffix")):
        if row.get(question) is not None and row.get(answer) is not None:
            return [
                {"role": role, "content": write_text(row[column], f"{source}: column {column!r}")}
                for role, column in (("user", question), ("assistant", answer))
            ]
    msg = (
        f"{source}: columns {', '.join(row)} hold no conversation; expected messages, conversations or "
        "question + answer (or prefix + suffix), or name your columns in data.custom_prompt_format"
    )
    raise SampleError(msg)


def _parse_messages(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        msg = f"{source}: found the messages {text!r}, expected a list of messages or JSON of one ({error})"
        raise SampleError(msg) from None


def _list_messages(messages: Any, source: str) -> Iterator[Mapping[str, Any]]:
    """Accept a list of messages, or one object of role to content."""
    if isinstance(messages, Mapping) and not {"role", "from", "content", "value"} & set(messages):
        messages = [{"role": role, "content": content} for role, content in messages.items()]
    elif isinstance(messages, Mapping):
        messages = [messages]
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        msg = f"{source}: found {messages!r}, expected a list of messages"
        raise SampleError(msg)
    for message in messages:
        if not isinstance(message, Mapping):
            msg = f"{source}: found the message {message!r}, expected one with a role and a content"
            raise SampleError(msg)
        yield message


def _read_turn(message: Mapping[str, Any], images: _Images, number: int) -> Turn:
    name = str(_first(message, "role", "from")).strip().lower()
    role = ROLES.get(name)
    if role is None:
        msg = f"{images.source}: found the role {_first(message, 'role', 'from')!r}, expected one of {', '.join(ROLES)}"
        raise SampleError(msg)
    # Deepseek-VL-V2's layout repeats a message's images inside it; those stand for the row's own.
    inside = list(_row_images(message))
    del images.waiting[: len(inside)]
    n_others = len(images.waiting)
    images.waiting[:0] = inside
    where = f"{images.source}: turn {number}"
    content = _first(message, *_CONTENT_KEYS)
    calls = _read_own_calls(message, where)
    if not calls and name in CALLING_ROLES and isinstance(content, str):
        calls = find_calls(content)
        content = None if calls else content
    thought = _read_thought(message, where)
    if content is None and not calls and thought is None and not inside:
        msg = f"{where} has no content; its keys are {', '.join(map(str, message))}"
        raise SampleError(msg)
    if role != "assistant" and (calls or thought is not None):
        msg = f"{where} is the {role}'s and holds tool calls or a thought, which only the assistant has"
        raise SampleError(msg)
    parts = _merge_text(_read_content(content, images))
    n_unplaced = len(images.waiting) - n_others
    if 0 < n_unplaced < len(inside):
        raise SampleError(_describe_unplaced(len(inside) - n_unplaced, n_unplaced, images.source))
    if n_unplaced > 0:
        parts = [*(images.take("an image of the message") for _ in inside), *parts]
    return Turn(role=role, parts=tuple(parts), thought=thought, calls=calls, learned=_read_mark(message, where))


def _read_own_calls(message: Mapping[str, Any], where: str) -> tuple[Mapping[str, Any], ...]:
    found = [key for key in _CALL_KEYS if message.get(key)]
    if len(found) > 1:
        msg = f"{where} holds tool calls under {' and '.join(map(repr, found))}; keep one"
        raise SampleError(msg)
    return read_calls(message[found[0]], where) if found else ()


def _read_thought(message: Mapping[str, Any], where: str) -> str | None:
    found = {key: message[key] for key in THOUGHT_KEYS if message.get(key) not in (None, "")}
    for key, thought in found.items():
        if not isinstance(thought, str):
            msg = f"{where} holds {show(thought)} under {key!r}, expected a text"
            raise SampleError(msg)
    if len(set(found.values())) > 1:
        msg = f"{where} holds different thoughts under {' and '.join(map(repr, found))}; keep one"
        raise SampleError(msg)
    return next(iter(found.values()), None)


def _read_mark(message: Mapping[str, Any], where: str) -> bool:
    """Say whether a message may be learned."""
    if message.get("mask") is not None:
        msg = (
            f"{where} holds 'mask', which some read as learned and some as left out; write 'loss': 1 if it is learned "
            "and 'loss': 0 if it is not"
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


def _first(message: Mapping[str, Any], *keys: str) -> Any:
    """Give the first value that is there; Arrow fills in None for keys that only other rows have."""
    return next((message[key] for key in keys if message.get(key) is not None), None)


def _read_content(content: Any, images: _Images) -> Iterator[str | ImageSlot]:
    if content is None:
        return
    if isinstance(content, str):
        before, *rest = content.split(IMAGE_TAG)
        yield before
        for text in rest:
            yield images.take(f"the marker {IMAGE_TAG}")
            yield text
    elif isinstance(content, Mapping):
        yield from _read_part(content, images)
    elif isinstance(content, Sequence):
        for part in content:
            yield from _read_content(part, images)
    else:
        msg = f"{images.source}: found the content {content!r}, expected text or a list of parts"
        raise SampleError(msg)


def _read_part(part: Mapping[str, Any], images: _Images) -> Iterator[str | ImageSlot]:
    kind = part.get("type")
    if kind in ("text", "input_text", "output_text") or (kind is None and part.get("text") is not None):
        text = _first(part, "text", "content")
        if not isinstance(text, str):
            msg = f"{images.source}: found the text part {dict(part)!r}, expected a string under 'text'"
            raise SampleError(msg)
        yield from _read_content(text, images)
        return
    if kind in ("image", "image_url", "input_image") or kind is None:
        image = _first(part, *_IMAGE_KEYS)
        if isinstance(image, Mapping) and "url" in image:
            image = image["url"]
        if image is None:
            yield images.take("an image part")
            return
        named = image if isinstance(image, list) else [image]
        # A row that names its images in the content and in a column means the same ones.
        del images.waiting[: len(named)]
        yield from (images.place(item) for item in named)
        return
    msg = f"{images.source}: found a part of type {kind!r}; vlora learns from text and images"
    raise SampleError(msg)


def _merge_text(parts: Iterator[str | ImageSlot]) -> list[str | ImageSlot]:
    merged: list[str | ImageSlot] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        elif part != "":
            merged.append(part)
    return merged


def _place_rest(turns: list[Turn], images: _Images) -> list[Turn]:
    if not images.waiting:
        return turns
    if images.placed:
        raise SampleError(_describe_unplaced(len(images.placed), len(images.waiting), images.source))
    first = next((index for index, turn in enumerate(turns) if turn.role == "user"), None)
    if first is None:
        msg = f"{images.source}: there are images but no user turn to show them in"
        raise SampleError(msg)
    slots = tuple(images.place(image) for image in images.waiting)
    images.waiting.clear()
    turns[first] = attrs.evolve(turns[first], parts=slots + turns[first].parts)
    return turns


def _describe_unplaced(n_placed: int, n_waiting: int, source: str) -> str:
    return (
        f"{source}: {n_placed} of {n_placed + n_waiting} images have a place in the messages; give every image a "
        f"marker ({IMAGE_TAG} or an image part), or none"
    )


def _is_empty_image_part(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "image" and part.get("image") == []


def _fill_format(template: Any, row: Row, source: str) -> Any:
    if isinstance(template, Mapping):
        return {key: _fill_format(value, row, source) for key, value in template.items()}
    if isinstance(template, list):
        filled = [_fill_format(value, row, source) for value in template]
        # A text-only row has nothing to put into the format's image parts.
        return [part for part in filled if not _is_empty_image_part(part)]
    if not isinstance(template, str):
        return template
    name = _COLUMN.fullmatch(template)
    if name and name[1] in ("image", "images"):
        # Either spelling stands for the row's images, whichever column it has.
        return list(_row_images(row))

    def value_of(match: re.Match[str]) -> str:
        if match[1] in ("image", "images"):
            return IMAGE_TAG * len(list(_row_images(row)))
        if row.get(match[1]) is None:
            msg = (
                f"{source}: data.custom_prompt_format names the column {match[1]!r}, which has no value here; the row "
                f"has {', '.join(row)}"
            )
            raise SampleError(msg)
        return write_text(row[match[1]], f"{source}: column {match[1]!r}")

    return _COLUMN.sub(value_of, template)
