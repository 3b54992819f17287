"""Rows with a better and a worse answer to one question, or with an answer and a mark of whether it is wanted. Pure.

The layouts of TRL, LLaMA-Factory, ms-swift and mlx-vlm. Whatever belongs to the question is read as in other rows.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import SampleError
from ...recipe.columns import UNUSED, is_there
from ..values import Row, write_text
from .content import Given
from .json_text import parse_if_json, show
from .layouts import (
    LISTED,
    Conversation,
    list_messages,
    make_message,
    messages_of,
    put_history_first,
    read_conversation,
    text_of,
)
from .marks import Mark
from .messages import Draft, Message, find_content, find_role, read_message

BETTER, WORSE = "chosen", "rejected"
WORSE_ONLY = ("rejected_response", "rejected_messages")
"""Columns of a worse answer beside a conversation that ends with the better one."""
MARKS = ("label", "kto_tag")
"""Columns that say whether an answer is wanted."""
_WRITTEN_MARKS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
WANTED = dict.fromkeys(MARKS, "whether the answer is wanted")

_ANSWERING = ("assistant", "tool")
_ASKING = ("prompt", "instruction", "question", "query", "prefix")
_QUESTIONS = ("prompt", *LISTED, *_ASKING[1:])
"""Columns that a question is looked for in, in this order."""


def read_preference(row: Row, source: str, *, is_paired: bool) -> Conversation:
    """Read a row with two answers; where answers have no pair, one with a mark is read, too.

    Args:
        row: Under the names that are read.
        source: The row, for errors.
        is_paired: Every row has two answers.

    Raises:
        SampleError: It has not, they do not answer one question, or they are the same.
    """
    if is_paired or _has_two(row):
        return _read_two(row, source)
    return _read_marked(row, source)


def refuse_pictures(drafts: Sequence[Draft], source: str) -> None:
    """Refuse images in the turns of an answer: a model is shown images, and writes none.

    Raises:
        SampleError: There are some.
    """
    for draft in drafts:
        named = [part for part in draft.parts if isinstance(part, Given) or _is_image_part(part)]
        if draft.images or named:
            msg = (
                f"{source}: an answer that is compared shows an image; images belong to the question, put it into the "
                "prompt or the column 'images'"
            )
            raise SampleError(msg)


def _is_image_part(part: Any) -> bool:
    return isinstance(part, Mark) and not part.text.startswith("<")


def _has_two(row: Row) -> bool:
    return any(is_there(row.get(column)) for column in (BETTER, WORSE, *WORSE_ONLY))


def _read_two(row: Row, source: str) -> Conversation:
    """Read a row with two answers."""
    worse_ones = [column for column in (WORSE, *WORSE_ONLY) if is_there(row.get(column))]
    if len(worse_ones) > 1:
        msg = (
            f"{source}: found a worse answer under {' and under '.join(map(repr, worse_ones))}; keep one, or set the "
            f'others aside (data.columns: {worse_ones[1]} = "{UNUSED}")'
        )
        raise SampleError(msg)
    for column in WORSE_ONLY:
        if is_there(row.get(column)) and not is_there(row.get(BETTER)):
            return _read_beside(row, column, source)
    missing = [column for column in (BETTER, WORSE) if not is_there(row.get(column))]
    if missing:
        lack = "no value under " + " and ".join(map(repr, missing))
        msg = (
            f"{source}: found {lack} among the columns {', '.join(map(str, row))}; a row needs a better and a worse "
            "answer, 'chosen' and 'rejected' (other names are mapped in data.columns)"
        )
        raise SampleError(msg)
    better, worse = (_list_answer(row[column], f"{source}: column {column!r}") for column in (BETTER, WORSE))
    if _is_answer(better) != _is_answer(worse):
        whole, other = (WORSE, BETTER) if _is_answer(better) else (BETTER, WORSE)
        msg = f"{source}: {whole!r} is a whole conversation and {other!r} an answer alone; write both the same way"
        raise SampleError(msg)
    if _is_answer(better):
        question, used = _read_question(row, source)
        return _compare(question, better, worse, (*used, BETTER, WORSE), source)
    asked = ("prompt",) if is_there(row.get("prompt")) else ()
    found = _divide(better, worse, (BETTER, WORSE, *asked), source)
    _check_prompt(row, found, source)
    return found


def _read_beside(row: Row, column: str, source: str) -> Conversation:
    """Read a conversation that ends with the better answer, and the worse one beside it."""
    rest = {name: value for name, value in row.items() if name not in WORSE_ONLY}
    talk = read_conversation(rest, source)
    used = (*talk.used, column)
    worse = _list_answer(row[column], f"{source}: column {column!r}")
    if not _is_answer(worse):
        return _divide(talk.messages, worse, used, source)
    n_answer = _count_answer(talk.messages)
    return _compare(
        talk.messages[: len(talk.messages) - n_answer],
        talk.messages[len(talk.messages) - n_answer :],
        worse,
        used,
        source,
    )


def _read_marked(row: Row, source: str) -> Conversation:
    """Read a row with an answer and a mark of whether it is wanted."""
    found = [column for column in MARKS if is_there(row.get(column))]
    if len(found) != 1:
        lack = f"both {' and '.join(map(repr, found))}" if found else f"neither {' nor '.join(map(repr, MARKS))}"
        msg = (
            f"{source}: found {lack} among the columns {', '.join(map(str, row))}; a row needs one that says whether "
            "its answer is wanted: true or false"
        )
        raise SampleError(msg)
    (column,) = found
    mark = row[column]
    # The cells of a CSV file are texts, NumPy's marks a type of its own.
    is_one = isinstance(mark, (str, bool, int, float)) or type(mark).__name__ in ("bool", "bool_")
    is_wanted = _WRITTEN_MARKS.get(str(mark).strip().lower()) if is_one else None
    if is_wanted is None:
        msg = f"{source}: found {show(mark)} under {column!r}, expected true if the answer is wanted, and false if not"
        raise SampleError(msg)
    talk = read_conversation({name: value for name, value in row.items() if name not in MARKS}, source)
    n_answer = _count_answer(talk.messages)
    _check_answer(talk.messages[len(talk.messages) - n_answer :], "the conversation", source)
    return Conversation(talk.messages, (*talk.used, column), n_answer=n_answer, is_wanted=is_wanted)


def _list_answer(value: Any, where: str) -> Sequence[Message]:
    """List the messages of an answer, or of a conversation: a text, a message, a list of them, or JSON of either."""
    found = messages_of(parse_if_json(value, "[{") if isinstance(value, str) else value)
    if found is not None:
        return list_messages(found, where)
    if isinstance(value, (list, tuple, Mapping)) and not isinstance(value, str):
        # Says which of the messages is none.
        messages = list_messages(value, where)
        _refuse_objects(messages, where)
        return messages
    text = write_text(value, where)
    if not text.strip():
        msg = f"{where}: the answer is empty; give one, or leave the row out"
        raise SampleError(msg)
    return [make_message("assistant", text)]


def _refuse_objects(messages: Sequence[Message], where: str) -> None:
    """Refuse objects that are no messages: a text may hold one, and whether it is one to learn is not guessed."""
    nameless = [message for message in messages if message.get("role") is None and message.get("from") is None]
    if nameless:
        msg = (
            f"{where}: found {show(nameless[0])}, expected a text, or messages with a role and a content; an object "
            "that is to be learned is written as JSON in a text"
        )
        raise SampleError(msg)


def _is_answer(messages: Sequence[Message]) -> bool:
    return bool(messages) and find_role(messages[0]) in _ANSWERING


def _count_answer(messages: Sequence[Message]) -> int:
    """Count the messages at the end that answer the last question."""
    return sum(1 for _ in itertools.takewhile(lambda message: find_role(message) in _ANSWERING, reversed(messages)))


def _read_question(row: Row, source: str) -> tuple[Sequence[Message], tuple[str, ...]]:
    """Read what two answers are given to, and name the columns that it comes from."""
    filled = [column for column in _QUESTIONS if is_there(row.get(column))]
    # A question may be empty: an answer is to the images alone then.
    column = next(iter(filled), None) or next((name for name in _ASKING if row.get(name) is not None), None)
    if column is None:
        msg = (
            f"{source}: 'chosen' and 'rejected' are answers, and no column holds the question; write it as 'prompt', "
            "or give whole conversations"
        )
        raise SampleError(msg)
    if column in LISTED:
        return list_messages(row[column], source), (column,)
    value = row[column]
    messages = (
        (value if isinstance(value, (list, tuple, Mapping)) else messages_of(value)) if column == "prompt" else None
    )
    behind = ("input",) if column == "instruction" and is_there(row.get("input")) else ()
    if messages is None:
        asked = "\n".join(text_of(row, name, source) for name in (column, *behind))
        question = [make_message("user", asked)]
    else:
        question = list_messages(messages, f"{source}: column {column!r}")
    history = ("history",) if is_there(row.get("history")) else ()
    return put_history_first(question, row, source), (column, *behind, *history)


def _divide(better: Sequence[Message], worse: Sequence[Message], used: tuple[str, ...], source: str) -> Conversation:
    """Compare two whole conversations: their prompt is the longest common prefix of turns."""
    n_common = sum(1 for _ in itertools.takewhile(lambda pair: _are_same(*pair), zip(better, worse, strict=False)))
    if n_common == len(better) == len(worse):
        msg = f"{source}: 'chosen' and 'rejected' are the same conversation; give two that differ, or leave the row out"
        raise SampleError(msg)
    if not n_common:
        msg = f"{source}: 'chosen' and 'rejected' begin with different turns; both have to answer one question"
        raise SampleError(msg)
    return _compare(better[:n_common], better[n_common:], worse[n_common:], used, source)


def _are_same(one: Message, other: Message) -> bool:
    return dict(one) == dict(other)


def _compare(
    question: Sequence[Message],
    better: Sequence[Message],
    worse: Sequence[Message],
    used: tuple[str, ...],
    source: str,
) -> Conversation:
    for name, answer in zip((BETTER, WORSE), (better, worse), strict=True):
        _check_answer(answer, repr(name), source)
    if not question:
        msg = f"{source}: there is no turn before the answers; both have to answer one question"
        raise SampleError(msg)
    if find_role(question[-1]) == "assistant":
        msg = f"{source}: the prompt ends with the assistant's turn; end it with the question that is answered"
        raise SampleError(msg)
    if len(better) == len(worse) and all(map(_say_the_same, better, worse)):
        msg = f"{source}: 'chosen' and 'rejected' are the same answer; give two that differ, or leave the row out"
        raise SampleError(msg)
    return Conversation([*question, *better], used, [*question, *worse], n_answer=len(better))


def _say_the_same(one: Message, other: Message) -> bool:
    return _are_same(one, other) or (
        find_role(one) == find_role(other) == "assistant"
        and isinstance(find_content(one), str)
        and find_content(one) == find_content(other)
        and one.keys() == other.keys()
        and not one.keys() & {"tool_calls", "reasoning_content"}
    )


def _check_answer(answer: Sequence[Message], name: str, source: str) -> None:
    """Refuse an answer that is none: no turn, one of somebody else, or an end that is not the assistant's."""
    if not answer:
        msg = f"{source}: {name} ends with the question; give an answer to it"
        raise SampleError(msg)
    for message in answer:
        role = find_role(message)
        if role is not None and role not in _ANSWERING:
            msg = (
                f"{source}: {name} has a turn of the {role} where the answers differ; only answers to one question are "
                "compared"
            )
            raise SampleError(msg)
    if find_role(answer[-1]) == "tool":
        msg = f"{source}: {name} ends with a tool's turn; end it with what the assistant says"
        raise SampleError(msg)


def _check_prompt(row: Row, found: Conversation, source: str) -> None:
    """Refuse a prompt beside whole conversations that is none of their questions."""
    prompt = row.get("prompt")
    if not is_there(prompt):
        return
    messages = messages_of(prompt)
    where = f"{source}: column 'prompt'"
    question = [_read_words(message, source) for message in found.messages[: len(found.messages) - found.n_answer]]
    if messages is None:
        is_said = _read_words(make_message("user", text_of(row, "prompt", source)), where) in question
    else:
        is_said = [_read_words(message, where) for message in messages] == question[-len(messages) :]
    if not is_said:
        msg = (
            f"{source}: the prompt is not the question of the conversations under 'chosen' and 'rejected'; keep one of "
            f'them, or set it aside (data.columns: prompt = "{UNUSED}")'
        )
        raise SampleError(msg)


def _read_words(message: Message, where: str) -> tuple[str, str]:
    """Read a role and its text without images and white space: of two that say the same, one may leave out images."""
    draft = read_message(message, where)
    return draft.role, " ".join(" ".join(part for part in draft.parts if isinstance(part, str)).split())
