"""Contents of messages: parts, thoughts among them, and data that is no list of parts."""

from typing import Any

import pytest

from tests.data.format.conversations import ANSWER, QUESTION, problem_of, turns
from vlora import Turn, format_sample
from vlora.data.format.samples import Reading, read_sample
from vlora.errors import SampleError
from vlora.system.written_json import parse_json


def test_parts_that_number_their_images_show_those() -> None:
    """An index counts the row's images from 0, with a size or without; where texts have one, too, it counts parts."""
    two = {"type": "image", "index": 1, "max_pixels": 900}
    content = [two, {"type": "text", "text": "Or?", "index": None}, {"type": "image", "index": 0, "text": None}]
    row = {"images": ["a.png", "b.png"], "messages": [{"role": "user", "content": content}, ANSWER]}
    sample, use = read_sample(row, "row", Reading())

    assert [getattr(image, "image", image) for image in sample.images] == ["b.png", "a.png"]
    assert sample.images[0].asked.max_pixels == 900
    assert not use.unused

    counted = [
        {"type": "image", "index": 0},
        {"type": "text", "text": "Or?", "index": 1},
        {"type": "image", "index": 2},
    ]
    row = {"images": ["a.png", "b.png"], "messages": [{"role": "user", "content": counted}, ANSWER]}
    sample, use = read_sample(row, "row", Reading())
    assert sample.images == ("a.png", "b.png")
    assert use.unused == {"messages.content.index"}


@pytest.mark.parametrize("kind", ["thinking", "reasoning"])
def test_a_thought_may_be_a_part(kind: str) -> None:
    """So do contents that are lists say what comes before the answer; what else the part holds is named."""
    said = {"type": "text", "text": "A cat."}
    part = {"type": kind, kind: "Whiskers, so.", "signature": "x"}
    row = {"messages": [QUESTION, {"role": "assistant", "content": [part, said]}]}
    sample, use = read_sample(row, "row", Reading())

    assert sample.turns[1] == Turn("assistant", ("A cat.",), thought="Whiskers, so.")
    assert use.unused == {"messages.content.signature"}
    for content, problem in (
        ([said, part], "behind or between"),
        ([part, said, part], "behind or between"),
        ([{"type": kind, kind: 3}, said], "expected a text"),
    ):
        assert problem in problem_of({"messages": [QUESTION, {"role": "assistant", "content": content}]})


@pytest.mark.parametrize("content", ["12.50", "true", "1e3", "0", "false"])
def test_contents_that_are_no_strings(content: str) -> None:
    """A number as the content of a message is learned as it is written."""
    row = {"messages": turns("q", parse_json(content))}

    assert format_sample(row).turns[1].text == content


@pytest.mark.parametrize("content", [[10, 20], [["a"], 3], [True]])
def test_lists_of_numbers_are_no_parts(content: Any) -> None:
    """The numbers of a list are not put together to another number."""
    with pytest.raises(SampleError, match="expected text or a list of parts"):
        format_sample({"messages": turns("q", content)})
