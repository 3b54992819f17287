"""JSON whose numbers remember how they were written. Pure."""

import json
from typing import Any, Self


class WrittenInt(int):
    """A whole number that is not written as Python would write it (`-0`).

    Attributes:
        spelling: Its text in the file.
    """

    spelling: str

    def __new__(cls, spelling: str) -> Self:
        """Read the number."""
        number = super().__new__(cls, spelling)
        number.spelling = spelling
        return number


class WrittenFloat(float):
    """A number that is not written as Python would write it (`12.50`, `1E3`).

    Attributes:
        spelling: Its text in the file.
    """

    spelling: str

    def __new__(cls, spelling: str) -> Self:
        """Read the number."""
        number = super().__new__(cls, spelling)
        number.spelling = spelling
        return number


def parse_json(text: str) -> Any:
    """Read JSON; `write_text` writes its numbers as they were written here.

    Raises:
        ValueError: It is no JSON, an object names a key twice, it is nested too deep, or text in it is no Unicode.
    """
    try:
        value = json.loads(
            text,
            parse_int=_read_int,
            parse_float=_read_float,
            # NaN and Infinity are not JSON, and are refused as text.
            parse_constant=float,
            object_pairs_hook=_read_object,
        )
    except RecursionError:
        msg = "lists and objects are nested too deep"
        raise ValueError(msg) from None
    if "\\ud" in text or "\\uD" in text:
        _check_unicode(value)
    return value


def explain_json(error: ValueError) -> str:
    """Describe an error of `parse_json` in a text within a file, whose line numbers are not the file's."""
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    start = len(error.doc) - len(error.doc.lstrip())
    return f"{error.msg.removesuffix(' at')} at character {error.pos - start + 1:,} of it"


def _read_int(spelling: str) -> int | float:
    try:
        number = int(spelling)
    except ValueError:
        # Thousands of digits, which Python does not turn into an integer.
        return WrittenFloat(spelling)
    return number if str(number) == spelling else WrittenInt(spelling)


def _read_float(spelling: str) -> float:
    number = float(spelling)
    return number if repr(number) == spelling else WrittenFloat(spelling)


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        msg = f"the key {twice!r} stands twice in an object"
        raise ValueError(msg)
    return read


def _check_unicode(value: Any) -> None:
    """Find half of a pair of code units: no text has it, and no tokenizer takes it."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        msg = f"{error.object[error.start : error.end]!a} is half a character"
        raise ValueError(msg) from None
