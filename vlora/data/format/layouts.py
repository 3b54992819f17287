"""Finds the columns of a row that make a conversation, and reads them as messages. Pure.

A layout is a table entry: required columns, optional columns, and a function that makes messages of them.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from ...errors import SampleError
from ...recipe.columns import BESIDES, COLUMNS, is_there
from ..values import Row, write_text
from .content import parse_parts
from .json_text import parse_if_json, parse_json, show
from .messages import ROLES, Message, find_content, find_role
from .pictures import row_images


@attrs.frozen
class Conversation:
    """The messages of a row.

    Attributes:
        messages: As `vlora.data.format.messages.read_message` reads them.
        used: The columns that they come from.
        rejected: The same with another answer, which is worse; empty without one.
        n_answer: Messages at the end that are the answer which is compared; 0 where none is.
        is_wanted: Whether a row says that its answer is wanted; None if it does not say.
    """

    messages: Sequence[Message]
    used: tuple[str, ...]
    rejected: Sequence[Message] = ()
    n_answer: int = 0
    is_wanted: bool | None = None


@attrs.frozen
class Layout:
    """Columns that make a conversation.

    Attributes:
        needs: Required columns.
        takes: Optional columns.
        read: Makes messages of a row; the second argument is the row's name in errors.
    """

    needs: tuple[str, ...]
    read: Callable[[Row, str], Sequence[Message]]
    takes: tuple[str, ...] = ()


def read_conversation(row: Row, source: str) -> Conversation:
    """Find the layout of a row and read its messages.

    Raises:
        SampleError: The row has no conversation, or a column is not understood.
    """
    # A table of several layouts has empty cells: a layout that is filled comes before one with an empty question.
    for is_given in (lambda row, column: is_there(row.get(column)), _is_there):
        for layout in LAYOUTS:
            if all(is_given(row, column) for column in layout.needs):
                taken = tuple(column for column in layout.takes if is_there(row.get(column)))
                return Conversation(layout.read(row, source), (*layout.needs, *taken))
    captions = [column for column in CAPTIONS if is_there(row.get(column))]
    others = [column for column in COLUMNS if column not in (*CAPTIONS, *BESIDES) and is_there(row.get(column))]
    if captions and row_images(row) and not others:
        answer = write_text(row[captions[0]], f"{source}: column {captions[0]!r}")
        return Conversation(({"role": "user", "content": ""}, {"role": "assistant", "content": answer}), (captions[0],))
    msg = (
        f"{source}: {_describe_lack(row, captions)}; expected {_describe_layouts()}, or an image and text, caption or "
        f"label; map other names in data.columns, or write data.custom_prompt_format{_suggest_preference(row)}"
    )
    raise SampleError(msg)


def _suggest_preference(row: Row) -> str:
    is_pair = is_there(row.get("chosen")) and is_there(row.get("rejected"))
    return "; rows with two answers are learned from with train.objective = 'dpo'" if is_pair else ""


def _describe_lack(row: Row, captions: Sequence[str]) -> str:
    """Describe what a row lacks for a conversation."""
    for layout in LAYOUTS:
        lacking = [column for column in layout.needs if not _is_there(row, column)]
        if len(lacking) == 1 < len(layout.needs) and lacking[0] in row:
            rest = " and ".join(repr(column) for column in layout.needs if column not in lacking)
            return f"the column {lacking[0]!r} has no value beside {rest}"
    has_images = bool(row_images(row))
    empty = [column for column in CAPTIONS if column in row and not is_there(row[column])]
    if not any(map(is_there, row.values())):
        why = " (none of them has a value)"
    elif captions and not has_images:
        why = f" ({captions[0]!r} is the answer to an image alone, and there is none)"
    elif empty and not captions and has_images:
        why = f" ({empty[0]!r} has no value beside the image)"
    else:
        why = ""
    if not row:
        return "no column holds a conversation"
    return f"columns {', '.join(map(str, row))} hold no conversation{why}"


def list_messages(messages: Any, source: str) -> list[Message]:
    """List the messages of a conversation.

    Args:
        messages: A list of messages, one message, one object of role to content, a list of such objects, or JSON of any
            of them; messages within a list may be JSON too.
        source: The row, for errors.

    Raises:
        SampleError: It is something else.
    """
    if isinstance(messages, str):
        messages = parse_json(messages, "the messages, expected a list of messages", source)
    if isinstance(messages, Mapping):
        messages = [messages]
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)) or not messages:
        msg = f"{source}: found {show(messages)}, expected a list of messages"
        raise SampleError(msg)
    found = [message for item in messages for message in _open_message(item, source)]
    return _open_contents(found)


def _open_message(item: Any, source: str) -> Iterator[Message]:
    message = item
    if isinstance(item, str):
        message = parse_json(item, "a message, expected one with a role and a content", source)
    if not isinstance(message, Mapping):
        msg = f"{source}: found the message {show(message)}, expected one with a role and a content"
        raise SampleError(msg)
    said = [key for key, value in message.items() if str(key).strip().lower() in ROLES and value is not None]
    if not said or any(message.get(key) is not None for key in ("role", "from", "content", "value")):
        yield message
        return
    # One object of role to content. Keys of an object have no order: the user speaks before the assistant.
    said.sort(key=lambda key: _TURNS.get(ROLES[str(key).strip().lower()], len(_TURNS)))
    # Other keys go with the first message, so that they are named if they are not read.
    rest = {key: value for key, value in message.items() if key not in said}
    for number, key in enumerate(said):
        yield {"role": key, "content": message[key], **(rest if number == 0 else {})}


def _open_contents(messages: list[Message]) -> list[Message]:
    """Parse contents that are JSON of parts, provided that a question is; an answer alone may be about such JSON."""
    opened = [parse_parts(find_content(message)) for message in messages]
    asked = [find_role(message) == "user" for message in messages]
    if not any(parts is not None and is_asked for parts, is_asked in zip(opened, asked, strict=True)):
        return messages
    return [
        message if parts is None else {**message, "content": parts, "value": None}
        for message, parts in zip(messages, opened, strict=True)
    ]


def _is_there(row: Row, column: str) -> bool:
    # A question may be empty; an empty list of messages is no conversation.
    value = row.get(column)
    return is_there(value) if column in LISTED else value is not None


def _describe_layouts() -> str:
    return ", ".join(" + ".join(layout.needs) for layout in LAYOUTS)


def _read_column(column: str) -> Callable[[Row, str], Sequence[Message]]:
    return lambda row, source: list_messages(row[column], source)


def _read_pair(question: str, answer: str) -> Callable[[Row, str], Sequence[Message]]:
    def read(row: Row, source: str) -> Sequence[Message]:
        asked, said = text_of(row, question, source), text_of(row, answer, source)
        return put_history_first([make_message("user", asked), make_message("assistant", said)], row, source)

    return read


def _read_instruction(row: Row, source: str) -> Sequence[Message]:
    """Read Alpaca's layout: the input follows the instruction on a line of its own."""
    asked = [text_of(row, column, source) for column in ("instruction", "input") if is_there(row.get(column))]
    said = text_of(row, "output", source)
    question = make_message("user", "\n".join(asked))
    return put_history_first([question, make_message("assistant", said)], row, source)


def _read_prompt(row: Row, source: str) -> Sequence[Message]:
    """Read TRL's layout: both are texts or lists of messages."""
    found: list[Message] = []
    for column, role in (("prompt", "user"), ("completion", "assistant")):
        messages = messages_of(row[column])
        if messages is None:
            found.append(make_message(role, text_of(row, column, source)))
        else:
            found += list_messages(messages, f"{source}: column {column!r}")
    return put_history_first(found, row, source)


def messages_of(value: Any) -> Any:
    """Give a list of messages; None if the value is no such list, nor JSON of one."""
    found = parse_if_json(value, "[") if isinstance(value, str) else value
    if isinstance(found, Mapping):
        found = [found]
    is_list = isinstance(found, (list, tuple)) and bool(found)
    return found if is_list and all(isinstance(item, Mapping) and find_role(item) for item in found) else None


def put_history_first(messages: Sequence[Message], row: Row, source: str) -> Sequence[Message]:
    """Put the earlier turns of a row before its question, behind a system prompt.

    Raises:
        SampleError: They are not understood.
    """
    n_system = sum(1 for _ in itertools.takewhile(lambda message: find_role(message) == "system", messages))
    return [*messages[:n_system], *_read_history(row, source), *messages[n_system:]]


def _read_history(row: Row, source: str) -> Sequence[Message]:
    """Read earlier turns: a list of [question, answer], or JSON of one."""
    history = row.get("history")
    if not is_there(history):
        return ()
    expected = "the history, expected a list of [question, answer]"
    if isinstance(history, str):
        history = parse_json(history, expected, source)
    if not isinstance(history, (list, tuple)) or not all(_is_pair(pair) for pair in history):
        msg = f"{source}: found {show(history)} as {expected}"
        raise SampleError(msg)
    where = f"{source}: column 'history'"
    return [
        make_message(role, write_text(text, where)) for pair in history for role, text in zip(_PAIR, pair, strict=True)
    ]


_PAIR = ("user", "assistant")
_TURNS = {"system": 0, "user": 1}
"""Roles that come first in an object of roles; the others keep their order."""


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == len(_PAIR)


def text_of(row: Row, column: str, source: str) -> str:
    """Write a column as text.

    Raises:
        SampleError: It is no text.
    """
    return write_text(row[column], f"{source}: column {column!r}")


def make_message(role: str, text: str) -> Message:
    """Make a message of a text."""
    return {"role": role, "content": text}


LISTED = ("messages", "conversations", "conversation", "texts")
CAPTIONS = ("text", "caption", "label")
"""Columns that are the answer to an image alone, where a row has no other text."""

LAYOUTS = (
    *(Layout((column,), _read_column(column)) for column in LISTED),
    Layout(("prompt", "completion"), _read_prompt, ("history",)),
    Layout(("query", "response"), _read_pair("query", "response"), ("history",)),
    Layout(("instruction", "output"), _read_instruction, ("input", "history")),
    Layout(("question", "answer"), _read_pair("question", "answer"), ("history",)),
    Layout(("prefix", "suffix"), _read_pair("prefix", "suffix"), ("history",)),
)
