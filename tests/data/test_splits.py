"""Portions of splits."""

import datasets
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vlora.data.splits import SplitPart, parse_split

rows = st.none() | st.integers(-12, 12).map(str)
shares = st.none() | st.integers(-100, 100).map("{}%".format)


@given(st.integers(1, 10), st.tuples(rows, rows) | st.tuples(shares, shares))
def test_slices_are_those_of_datasets(n_rows: int, bounds: tuple[str | None, str | None]) -> None:
    """A slice has the rows that `datasets` would give."""
    # `datasets` takes a share of less than half a row from the end for the first row: -1% of ten is all or nothing.
    assume(all(bound is None or bound[0] != "-" or round(int(bound.strip("%")) * n_rows / 100) for bound in bounds))
    first, last = bounds
    written = f"train[{first or ''}:{last or ''}]"
    (absolute,) = datasets.ReadInstruction.from_spec(written).to_absolute({"train": n_rows})
    (part,) = parse_split(written)

    assert list(part.choose(n_rows)) == list(range(absolute.from_, absolute.to))
    assert str(part) == ("train" if part.is_whole else written)


def test_less_than_a_row_from_the_end() -> None:
    """A share that rounds to no row is no row, from the end too."""
    assert list(parse_split("train[-1%:]")[0].choose(10)) == []
    assert list(parse_split("train[:-1%]")[0].choose(10)) == list(range(10))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("train", [("train", None, None)]),
        ("train_sft.v2", [("train_sft.v2", None, None)]),
        ("train [ :10 ] + test[-5%:]", [("train", None, "10"), ("test", "-5%", None)]),
        ("a+b+a[1_000:]", [("a", None, None), ("b", None, None), ("a", "1_000", None)]),
    ],
)
def test_splits_are_parsed(text: str, parts: list[tuple[str, str | None, str | None]]) -> None:
    """Names, slices and sums of them."""
    assert parse_split(text) == tuple(SplitPart(*part) for part in parts)


@pytest.mark.parametrize(
    "text",
    [
        "train[10]",
        "train[1:2:3]",
        "train[:10",
        "train]",
        "[1:2]",
        "train+",
        "train[a:]",
        "a(b)",
        "a[_:]",
        f"a[:{'9' * 99}]",
    ],
)
def test_other_spellings_are_refused(text: str) -> None:
    """What is written otherwise is no name of a split."""
    with pytest.raises(ValueError, match="a split is written as train"):
        parse_split(text)


@pytest.mark.parametrize("text", ["train[:101%]", "train[-101%:]", "train[1:50%]", "train[10%:-1]"])
def test_impossible_slices_are_refused(text: str) -> None:
    """Shares are no more than all, and are not mixed with numbers of rows."""
    with pytest.raises(ValueError, match="counts rows or percent"):
        parse_split(text)
