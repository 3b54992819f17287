"""Texts of rows are written once: the same for the same turns, tools and number of images, and for nothing else."""

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest

from tests.models.encode.conversations import ONE, picture
from vlora import Sample, Turn
from vlora.errors import SampleError
from vlora.models import Encoder
from vlora.models.encode.written_memory import WrittenMemory
from vlora.types import IntArray

Encoding = Callable[..., Encoder]


@attrs.frozen(eq=False)
class Made:
    """What a stand-in for the writer makes."""

    text: str
    tokens: IntArray


def make_counted() -> tuple[Callable[[Sample], Made], list[str]]:
    """Make a stand-in for the writer, and the list of rows that it was asked for."""
    asked: list[str] = []

    def make(sample: Sample) -> Made:
        asked.append(sample.source)
        return Made(sample.source, np.zeros(100, dtype=np.int32))

    return make, asked


def ask(source: str, text: str, **fields: Any) -> Sample:
    """Make a row of a question and its answer."""
    turns = (Turn("user", (text,)), Turn("assistant", ("Yes.",)))
    return Sample(source, turns, fields.pop("images", ()), **fields)


def test_the_same_texts_are_written_once() -> None:
    """A row that comes again is remembered, and so is another row with its texts; others are written."""
    make, asked = make_counted()
    memory = WrittenMemory[Made]()
    first = memory.get_or_compute(ask("row 1", "One?"), make)

    assert memory.get_or_compute(ask("row 1", "One?"), make) is first
    assert memory.get_or_compute(ask("row 2", "One?"), make) is first
    for number, other in enumerate(
        (
            ask("row 3", "Two?"),
            ask("row 4", "One?", images=("a.png",)),
            ask("row 5", "One?", tools=({"name": "look"},)),
            ask("row 6", "One?", tools=({"name": "look", "at": 1},)),
            ask("row 7", "One?", tools=({"name": "look", "at": 1.0},)),
        ),
        2,
    ):
        assert memory.get_or_compute(other, make) is not first
        assert len(asked) == number
    with pytest.raises(ValueError, match="read-only"):
        first.tokens[0] = 1


def test_the_budget() -> None:
    """What no longer fits is written anew each time; what cannot be spelled is, too."""
    make, asked = make_counted()
    memory = WrittenMemory[Made](most_bytes=4000)
    for number in range(5):
        for _ in range(2):
            memory.get_or_compute(ask(f"row {number}", f"{number}?"), make)

    assert memory.held_bytes <= 4000
    assert asked[:3] == ["row 0", "row 1", "row 2"]
    assert asked[-2:] == ["row 4", "row 4"]
    unpicklable = ask("row 9", "One?", tools=({"call": lambda: 0},))
    memory.get_or_compute(unpicklable, make)
    memory.get_or_compute(unpicklable, make)
    assert asked[-2:] == ["row 9", "row 9"]


def test_rows_keep_their_own_names_and_images(encoder: Encoding) -> None:
    """Rows of one text: each has its image and its source, an error names its own row, and the tokens are the same."""
    encode = encoder("qwen3_vl")
    second = attrs.evolve(ONE, source="the second", images=(picture(1, 96, 64),))
    found, other, again = encode(ONE), encode(second), encoder("qwen3_vl")(second)

    assert (found.source, other.source) == (ONE.source, "the second")
    assert other.image_sizes != found.image_sizes
    np.testing.assert_array_equal(other.tokens, again.tokens)
    np.testing.assert_array_equal(other.supervised, again.supervised)
    for name, value in again.inputs.items():
        np.testing.assert_array_equal(np.asarray(other.inputs[name]), np.asarray(value))
    for source in ("row 1", "row 2"):
        with pytest.raises(SampleError, match=f"^{source}: "):
            encode(attrs.evolve(ONE, source=source, images=()))
