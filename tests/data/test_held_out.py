"""Rows that are held out: a share, fixed by the seed, and what is said where it leaves none."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora.data.opening import read_rows
from vlora.errors import RecipeError, SampleError
from vlora.recipe.schema import DataSection


def test_a_row_that_cannot_be_read_is_told_before_there_are_too_few(tmp_path: Path) -> None:
    """A line of two objects is what leaves one row, and it is what is to be mended."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "a", "answer": "b"}' * 2)
    section = DataSection(path=str(path), valid_fraction=0.1)
    with pytest.raises(SampleError, match=r"^rows\.jsonl train row 0: line 1 of rows\.jsonl: "):
        read_rows(section)

    path.write_text('{"question": "a", "answer": "b"}')
    with pytest.raises(RecipeError, match=r"^data\.valid_fraction: holding out 1 of 1 rows leaves none to train on"):
        read_rows(section)


@given(st.integers(2, 60), st.floats(0.01, 0.9), st.integers(0, 2**32))
def test_valid_fraction(n_rows: int, fraction: float, seed: int) -> None:
    """A share of the rows is held out: no row twice, none lost, the same for the same seed."""
    table = [{"question": str(number), "answer": "a"} for number in range(n_rows)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlora.data.opening.load_digit_rows", lambda *_: table)
        section = DataSection(path="builtin:digits", valid_fraction=fraction)
        try:
            train, valid = read_rows(section, seed=seed)
        except RecipeError as error:
            assert "data.valid_fraction" in str(error)  # noqa: PT017
            assert round(n_rows * fraction) >= n_rows
            return
        again, valid_again = read_rows(section, seed=seed)
    assert valid is not None
    assert valid_again is not None
    numbers, held_out = list(train.indices), list(valid.indices)

    assert sorted(numbers + held_out) == list(range(n_rows))
    assert numbers == sorted(numbers)
    assert len(held_out) == max(1, round(n_rows * fraction))
    assert (numbers, held_out) == (list(again.indices), list(valid_again.indices))
    assert train[0].source.endswith(f"row {numbers[0]}")
    assert valid[0].turns[0].text == str(held_out[0])
