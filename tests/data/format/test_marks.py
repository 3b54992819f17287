"""Marks in texts: told from words, numbered or not, and escaped by a backslash."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora.data.format.marks import Mark, split_marks


def parts_of(text: str) -> list[str | Mark]:
    """Divide a text at its marks, without the empty texts between."""
    return [part for part in split_marks(text) if part != ""]


@given(st.text())
def test_nothing_is_lost(text: str) -> None:
    """Texts and marks together are the whole text, but for backslashes before marks."""
    written = "".join(part.text if isinstance(part, Mark) else part for part in split_marks(text))

    assert written == text or "\\" in text


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("<image>", Mark("<image>")),
        ("<ImageHere>", Mark("<ImageHere>")),
        ("<image 2>", Mark("<image 2>", 2)),
        ("<|image_13|>", Mark("<|image_13|>", 13)),
        ("<video>", Mark("<video>", is_foreign=True)),
        ("<|image_pad|>", Mark("<|image_pad|>", is_foreign=True)),
        ("<img>a.png</img>", Mark("<img>a.png</img>", is_foreign=True)),
    ],
)
def test_marks(text: str, mark: Mark) -> None:
    """A mark stands for the next image, for a numbered one, or is another model's or medium's."""
    assert parts_of(f"before {text} after") == ["before ", mark, " after"]


@pytest.mark.parametrize("text", ["<image", "image>", "< image >", "<images>", "<image12345>", "<b>", "[image]"])
def test_words(text: str) -> None:
    """What is written like a mark and is none stays text."""
    assert parts_of(text) == [text]


def test_a_backslash_makes_a_word() -> None:
    """An escaped mark is the mark's text; the backslash is gone."""
    assert parts_of(r"say \<image> for <image>") == ["say <image> for ", Mark("<image>")]
