"""Refuses rows whose answers say nothing. Pure."""

from collections.abc import Sequence

from ...errors import SampleError
from ...types import Turn


def refuse_blank(turns: Sequence[Turn], source: str) -> None:
    """Refuse a conversation in which no answer has text, calls or a thought, or none of the answers that are learned.

    Only the ends of its answers would be learned. A blank answer beside one with text is what was written, and stays.

    Args:
        turns: The conversation.
        source: The row, for errors.

    Raises:
        SampleError: There is nothing to learn from.
    """
    answers = [turn for turn in turns if turn.role == "assistant"]
    said = [turn for turn in answers if turn.calls or turn.text.strip() or (turn.thought or "").strip()]
    if not said:
        found = "the assistant's turns have no text" if answers else "there is no assistant turn"
        msg = f"{source}: {found}; there is nothing to learn from, give an answer or leave the row out"
        raise SampleError(msg)
    if any(turn.learned for turn in answers) and not any(turn.learned for turn in said):
        msg = f"{source}: the assistant's turns that are learned have no text; mark one with text, or leave the row out"
        raise SampleError(msg)
