"""Rows shortened to `data.max_seq_length`: text is cut and counted, images and all that is learned are not lost."""

from typing import Literal

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import examples
from vlora.data.truncate import truncate
from vlora.errors import LongRowError, SampleError
from vlora.recipe.schema import DataSection
from vlora.types import Example


def example_of(supervised: list[bool], placeholders: list[bool] | None = None) -> Example:
    """Make an example of numbered tokens, with an input per token and one per image."""
    n_tokens = len(supervised)
    tokens = np.arange(n_tokens, dtype=np.int32)
    return Example(
        source="rows row 3",
        tokens=tokens,
        supervised=np.array(supervised, dtype=np.bool_),
        placeholders=np.array(placeholders or [False] * n_tokens, dtype=np.bool_),
        inputs={"kinds": tokens[None], "pixel_values": np.zeros((1, n_tokens), dtype=np.float32)},
    )


@given(examples(), st.integers(2, 100))
def test_a_row_is_its_beginning_or_an_error(example: Example, limit: int) -> None:
    """A truncated row begins as the whole one does, has no image less, and something to learn; others are refused."""
    data = DataSection(path="rows", max_seq_length=limit)
    try:
        found = truncate(example, data)
    except SampleError:
        loses_image = example.placeholders[limit:].any()
        assert loses_image or not example.supervised[:limit].any()
        return

    assert found.tokens.tolist() == example.tokens[:limit].tolist()
    assert found.supervised.tolist() == example.supervised[:limit].tolist()
    assert found.supervised.any()
    assert found.placeholders.sum() == example.placeholders.sum()
    assert (found.cut is None) == (len(example.tokens) <= limit)


def test_what_is_cut_is_counted() -> None:
    """The record of a cut has the row's length, what is kept, and how many learned tokens are lost."""
    found = truncate(example_of([False, True, True, True, True]), DataSection(path="rows", max_seq_length=3))

    assert found.cut is not None
    assert (found.cut.source, found.cut.n_tokens, found.cut.n_kept, found.cut.n_lost) == ("rows row 3", 5, 3, 2)


def test_inputs_per_token_are_cut_too() -> None:
    """Whole numbers with a place for every token end where the tokens do; pixels stay."""
    found = truncate(example_of([True] * 5), DataSection(path="rows", max_seq_length=3))

    assert found.inputs["kinds"].tolist() == [[0, 1, 2]]
    assert found.inputs["pixel_values"].shape == (1, 5)


@pytest.mark.parametrize("on_long_row", ["skip", "raise"])
def test_long_rows_that_are_not_to_be_cut(on_long_row: Literal["skip", "raise"]) -> None:
    """The recipe may refuse long rows; rows that fit are not touched."""
    data = attrs.evolve(DataSection(path="rows", max_seq_length=3), on_long_row=on_long_row)
    whole = example_of([True] * 3)

    assert truncate(whole, data) is whole
    with pytest.raises(LongRowError, match=r"^rows row 3: 4 tokens exceed data.max_seq_length=3; raise it"):
        truncate(example_of([True] * 4), data)


def test_images_are_not_cut() -> None:
    """A row whose image lies beyond the limit is refused, with what makes images smaller."""
    row = example_of([True] * 5, [False, False, True, True, False])

    with pytest.raises(SampleError, match=r"5 tokens exceed .*=3 and 1 image tokens would be cut; .*data.max_pixels"):
        truncate(row, DataSection(path="rows", max_seq_length=3))


def test_something_has_to_be_learned() -> None:
    """A row of which nothing is supervised, or nothing within the limit, is refused."""
    data = DataSection(path="rows", max_seq_length=3)
    with pytest.raises(SampleError, match=r"^rows row 3: no token is supervised; there is nothing to learn from"):
        truncate(example_of([False, False]), data)
    with pytest.raises(SampleError, match=r"no token is supervised within data.max_seq_length=3 \(4 tokens\)"):
        truncate(example_of([False, False, False, True]), data)
