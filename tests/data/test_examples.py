"""Rows made into examples one by one: bad ones are left out, replaced or raised, as the caller says."""

from typing import Any

import attrs
import pytest

from vlora.data.examples import first_examples, is_skipped, raise_unless_skipped
from vlora.data.rows import RowDataset
from vlora.errors import LongRowError, SampleError
from vlora.recipe.schema import DataSection
from vlora.types import Sample

TABLE: list[dict[str, Any]] = [{"question": "a", "answer": str(number)} for number in range(5)]
ROWS = RowDataset(name="rows", table=TABLE, indices=[4, 3, 2, 1, 0])


def encode(sample: Sample) -> str:
    """Give the answer; 3 cannot be encoded."""
    text = sample.turns[-1].text
    if text == "3":
        msg = f"{sample.source}: cannot be encoded"
        raise SampleError(msg)
    return text


def test_bad_rows_are_what_the_caller_makes_of_them() -> None:
    """In the order of the rows; no more rows are read than were asked for."""
    assert list(first_examples(ROWS, 3, encode, lambda _, __: None)) == ["4", "2"]
    assert list(first_examples(ROWS, 3, encode, lambda index, error: (index, str(error)))) == [
        "4",
        (1, "rows row 3: cannot be encoded"),
        "2",
    ]
    assert list(first_examples(ROWS, 1, encode, lambda _, __: None)) == ["4"]
    assert len(list(first_examples(ROWS, 100, encode, lambda _, __: None))) == 4
    assert list(first_examples(ROWS, 2, encode, lambda index, _: str(index), first=1, every=2)) == ["1", "1"]
    assert list(first_examples(ROWS, 9, encode, lambda _, __: None, first=2, every=3)) == ["2"]


def test_rows_that_cannot_be_read_are_bad_rows() -> None:
    """A row without a conversation is told with its index too."""
    rows = attrs.evolve(ROWS, table=[{"nothing": "to learn"}, *TABLE])
    found = list(first_examples(rows, 5, lambda sample: sample.source, lambda index, _: f"bad {index}"))

    assert found == ["rows row 4", "rows row 3", "rows row 2", "rows row 1", "bad 4"]


@pytest.mark.parametrize("kind", [SampleError, LongRowError])
def test_the_recipe_says_which_errors_end_a_run(kind: type[SampleError]) -> None:
    """Each kind has a key of its own, which the error names."""
    key = "on_long_row" if kind is LongRowError else "on_bad_row"
    options: list[dict[str, Any]] = [{key: value} for value in ("raise", "skip")]
    raising, skipping = (DataSection(path="-", **option) for option in options)
    with pytest.raises(kind, match=rf"^row 1: no; with data\.{key} = "):
        raise_unless_skipped(kind("row 1: no"), raising)

    raise_unless_skipped(kind("row 1: no"), skipping)
    assert not is_skipped(kind("no"), raising)
    assert is_skipped(kind("no"), skipping)
