"""JSON within values of rows: cells of CSV files, messages and contents that are texts. Pure."""

from typing import Any

from ...errors import SampleError
from ...system import written_json

WIDTH = 120
"""Characters of a value that a message shows at most."""


def parse_json(text: str, what: str, source: str) -> Any:
    """Parse a text that has to be JSON.

    Args:
        text: The text.
        what: What it holds and what is expected, for the error: "the tools, expected a list of them".
        source: The row, for the error.

    Raises:
        SampleError: It is not JSON.
    """
    try:
        return written_json.parse_json(text)
    except ValueError as error:
        msg = f"{source}: found {show(text)} as {what}, or JSON of that ({written_json.explain_json(error)})"
        raise SampleError(msg) from None


def parse_if_json(text: str, opening: str) -> Any:
    """Parse a text that may be JSON; None if it is not.

    Args:
        text: The text.
        opening: Brackets that such JSON may begin with: "[", "{" or "[{".
    """
    if not text.lstrip()[:1] or text.lstrip()[0] not in opening:
        return None
    try:
        return written_json.parse_json(text)
    except ValueError:
        return None


def show(value: Any) -> str:
    """Write a value for a message, shortened."""
    try:
        text = repr(value)
    except RecursionError:
        return "a value that is nested too deep"
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."
