"""Data sets joined: rows by number, and what each is known by."""

import pytest

from vlora.data.mixed_rows import mix_rows
from vlora.data.rows import RowDataset


def make(name: str, indices: list[int]) -> RowDataset:
    table = [{"question": f"{name} {number}?", "answer": "yes"} for number in range(10)]
    return RowDataset(name=name, table=table, indices=indices)


def test_rows_by_number() -> None:
    """A number is that of the row's own data set, and may be one of several."""
    rows = mix_rows("a + b", [make("a", [1, 3, 5]), make("b", [5, 0])], weights=[1, 1])

    assert [rows.name_row(index) for index in range(len(rows))] == [
        *("a row 1", "a row 3", "a row 5"),
        *("b row 5", "b row 0"),
    ]
    assert [rows[index].source for index in (1, 3)] == ["a row 3", "b row 5"]
    assert rows.table[3] == {"question": "b 5?", "answer": "yes"}
    assert list(rows.find_numbered(5)) == [2, 3]
    assert list(rows.find_numbered(9)) == []
    assert rows.number_range() == (0, 5)
    assert [rows.name_source(index) for index in (0, 4)] == ["a", "b"]
    assert rows.order(seed=0, shuffle=False)(0).tolist() == [0, 3, 1, 4, 2]


def test_some_of_the_rows() -> None:
    """`indices` counts over all data sets."""
    rows = mix_rows("a-*", [make("a-0", [0, 1]), make("a-1", [0, 1])], indices=[1, 2], is_mixture=False)

    assert [rows[index].source for index in range(len(rows))] == ["a-0 row 1", "a-1 row 0"]
    assert list(rows.find_numbered(0)) == [1]
    assert rows.name_source(0) is None
    assert sorted(rows.order(seed=0, shuffle=True)(0).tolist()) == [0, 1]
    with pytest.raises(IndexError):
        rows[2]


def test_first_samples_are_of_the_chosen_rows() -> None:
    """The data sets take turns; rows that `indices` leaves out are none, and no column counts as read."""
    whole = mix_rows("a + b", [make("a", [1, 3, 5]), make("b", [5, 0])])
    cut = mix_rows("a-*", [make("a-0", [0, 1, 2]), make("a-1", [4, 5])], indices=[2, 4, 1], is_mixture=False)

    assert [sample.source for sample in whole.first_samples(3)] == ["a row 1", "b row 5", "a row 3", "b row 0"]
    assert [sample.source for sample in cut.first_samples()] == ["a-0 row 2", "a-1 row 5", "a-0 row 1"]
    assert not cut.columns().used
