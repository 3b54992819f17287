"""Conversations whose answers say nothing."""

import pytest

from vlora.data.format.blank_answers import refuse_blank
from vlora.errors import SampleError
from vlora.types import ImageSlot, Turn

ASKED = Turn("user", ("How deep is it?",))
BLANK = Turn("assistant", (" \t", "\u2003\n"))


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ([ASKED], "no assistant turn"),
        ([ASKED, BLANK], "turns have no text"),
        ([ASKED, Turn("assistant", ())], "turns have no text"),
        ([ASKED, Turn("assistant", (ImageSlot(0),))], "turns have no text"),
        ([ASKED, Turn("assistant", (), thought=" ")], "turns have no text"),
        ([ASKED, Turn("assistant", ("12 m",), learned=False), ASKED, BLANK], "learned have no text"),
    ],
)
def test_nothing_to_learn_is_refused(turns: list[Turn], said: str) -> None:
    """By a sentence that begins with the row."""
    with pytest.raises(SampleError, match=f"^dives row 4: .*{said}"):
        refuse_blank(turns, "dives row 4")


@pytest.mark.parametrize(
    "answer",
    [
        Turn("assistant", (" 12 m ",)),
        Turn("assistant", (), thought="It is dark."),
        Turn("assistant", (), calls=({"name": "sound", "arguments": {}},)),
    ],
)
def test_what_says_something_is_kept(answer: Turn) -> None:
    """Alone, beside a blank answer, and where no answer is learned, which is looked for later."""
    refuse_blank([ASKED, answer], "row")
    refuse_blank([ASKED, BLANK, ASKED, answer], "row")
    refuse_blank([ASKED, Turn("assistant", ("12 m",), learned=False)], "row")
