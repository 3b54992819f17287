"""Tables of rows: lists, and several one after another."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora.data.readers.table import columns_in, fills_gaps, join_tables, kinds_in, names_images, parts_of


@attrs.frozen(eq=False)
class Declaring:
    """Rows whose columns are declared."""

    rows: Sequence[Mapping[str, Any]]
    kinds: Mapping[str, str]
    fills_gaps: bool = False

    @property
    def columns(self) -> Sequence[str]:
        """The columns."""
        return [*self.kinds]

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """Read a row."""
        return self.rows[index]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_joined_tables_have_the_rows_of_all(sizes: list[int]) -> None:
    """In their order, also behind tables without rows; and none beyond."""
    numbers = iter(range(sum(sizes)))
    tables = [[{"number": next(numbers)} for _ in range(size)] for size in sizes]
    joined = join_tables(tables)

    assert [joined[index]["number"] for index in range(len(joined))] == list(range(sum(sizes)))
    with pytest.raises(IndexError):
        joined[len(joined)]
    assert list(parts_of(joined)) == tables


def test_a_list_declares_nothing() -> None:
    """Its rows may have any columns."""
    rows: list[dict[str, Any]] = [{"a": 1}]

    assert join_tables([rows]) is rows
    assert (kinds_in(rows), columns_in(rows), fills_gaps(rows), names_images(rows)) == ({}, None, False, False)


def test_joined_tables_declare_what_their_parts_do() -> None:
    """The first one's kind of a column counts; columns are known if all tables know theirs."""
    one, other = Declaring([], {"a": "text"}), Declaring([], {"a": "label", "b": "image"}, fills_gaps=True)
    joined = join_tables([join_tables([one, other]), one])

    assert kinds_in(joined) == {"a": "text", "b": "image"}
    assert columns_in(joined) == ["a", "b"]
    assert fills_gaps(joined)
    assert not fills_gaps(join_tables([one, one]))
    assert columns_in(join_tables([one, []])) is None
