"""Places of images: each has one, and those without a mark come first."""

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.data.format.conversations import shape, turns, words
from vlora import format_sample
from vlora.data.format.marks import IMAGE_TAG
from vlora.types import ImageSlot


@st.composite
def tagged_rows(draw: st.DrawFn) -> tuple[dict[str, Any], list[list[str | int]]]:
    """Draw a row of messages with images by tag or part, and the parts that each turn has to have."""
    n_images = 0
    messages, expected = [], []
    for _ in range(draw(st.integers(1, 3))):
        parts = draw(st.lists(st.one_of(words.filter(bool), st.none()), max_size=5))
        content: Any = []
        numbered: list[str | int] = []
        for part in parts:
            if part is None:
                content.append({"type": "image"})
                numbered.append(n_images)
                n_images += 1
            else:
                content.append({"type": "text", "text": part})
                numbered[-1:] = (
                    [numbered[-1] + part] if numbered and isinstance(numbered[-1], str) else [*numbered[-1:], part]
                )
        if draw(st.booleans()):
            content = "".join(IMAGE_TAG if part["type"] == "image" else part["text"] for part in content)
        messages += [{"role": "user", "content": content}, {"role": "assistant", "content": "Yes."}]
        expected.append(numbered)
    return {"messages": messages, "images": list(range(n_images))}, expected


@given(tagged_rows())
def test_every_image_has_one_place(drawn: tuple[dict[str, Any], list[list[str | int]]]) -> None:
    """Each image has one slot, texts and images keep their order, and the row is not changed."""
    row, expected = drawn
    before = copy.deepcopy(row)

    sample = format_sample(row)

    slots = [part.index for turn in sample.turns for part in turn.parts if isinstance(part, ImageSlot)]
    assert slots == list(range(len(sample.images)))
    assert list(sample.images) == row["images"]
    assert [parts for role, parts in shape(sample) if role == "user"] == expected
    assert row == before


@given(st.lists(st.integers(), max_size=4), st.lists(words.filter(bool), min_size=1, max_size=4))
def test_images_without_marker_come_first(images: list[int], questions: list[str]) -> None:
    """Images that nothing places stand before the first question, in their order."""
    messages = [message for text in questions for message in turns(text, "Yes.")]

    sample = format_sample({"images": images, "messages": messages})

    assert shape(sample)[0] == ("user", [*images, questions[0]])
    assert [turn.text for turn in sample.turns if turn.role == "user"] == questions
