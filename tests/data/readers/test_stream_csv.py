"""CSV as a stream: the same rows and errors as read by number, quotes and all."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlora.data.readers.csv_files import open_csv
from vlora.data.readers.stream import Found
from vlora.data.readers.stream_csv import is_within_quotes, open_records
from vlora.data.readers.stream_files import local_file
from vlora.errors import SampleError

VALUES = st.sampled_from(["", "a", "1.50", '"x, y"', '"two\nlines"', '"a ""quote"""', 'an "inner" one', '"z"z', " "])


def read(get: object, index: int) -> object:
    """Read a row, or its error."""
    try:
        return get(index)  # type: ignore[operator]
    except SampleError as error:
        return str(error)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.lists(VALUES, min_size=0, max_size=3), max_size=6),
    end=st.sampled_from(["", "\n", "\r\n", "\n\n"]),
    mark=st.booleans(),
)
def test_rows_are_those_of_the_file_read_by_number(tmp_path: Path, rows: list[list[str]], end: str, mark: bool) -> None:
    """Whatever stands in quotes; blank lines within are bad rows, those at the end are none."""
    path = tmp_path / "rows.csv"
    text = "\n".join(["q,a,b", "1,2,3", "4,5,6", *(",".join(row) for row in rows)]) + end
    path.write_bytes(b"\xef\xbb\xbf" * mark + text.encode())
    table, reader = open_csv(path), open_records(local_file(path, tmp_path))
    found = list(reader.find())

    assert dict(reader.kinds) == dict(table.kinds)
    assert [read(lambda at: reader.read(found[at].number, found[at].offset), index) for index in range(len(found))] == [
        read(table.__getitem__, index) for index in range(len(table))
    ]
    again = open_records(local_file(path, tmp_path))
    for place, row in reversed([*enumerate(found)]):
        line = f"line {again.line(row.number, row.offset):,} of rows.csv"
        assert line == table.line(place) == f"line {reader.line(row.number, row.offset):,} of rows.csv"
        assert list(reader.find(Found(row.number, row.offset))) == found[place:]


def test_separators_are_recognized(tmp_path: Path) -> None:
    """As in files that are read by number."""
    path = tmp_path / "rows.tsv"
    path.write_text("q\ta\n1,5\t2\n")
    reader = open_records(local_file(path, tmp_path))

    assert [reader.read(*row) for row in reader.find()] == [{"q": "1,5", "a": "2"}]


def test_a_line_names_the_separator(tmp_path: Path) -> None:
    """As in files that are read by number: the header is the line below it."""
    path = tmp_path / "rows.csv"
    path.write_bytes("\ufeffsep=;\r\nq;a\r\n1,5;2,5\r\n".encode())
    reader = open_records(local_file(path, tmp_path))

    assert [reader.read(*row) for row in reader.find()] == [{"q": "1,5", "a": "2,5"}]


def test_a_quote_that_is_never_closed_is_named(tmp_path: Path) -> None:
    """With its line; the rows before it are there."""
    path = tmp_path / "rows.csv"
    path.write_text('q,a\n1,2\n"3,4\n5,6\n')
    rows = open_records(local_file(path, tmp_path)).find()

    assert next(rows).number == 0
    with pytest.raises(ValueError, match=r"line 3 of rows\.csv: a quote opens a value and none closes it"):
        next(rows)


def test_headers_are_checked(tmp_path: Path) -> None:
    """Columns of one name are refused; a file without a line has no rows."""
    path = tmp_path / "rows.csv"
    path.write_text("q,q\n1,2\n")
    with pytest.raises(ValueError, match=r"line 1 of rows\.csv: two columns have the name 'q'"):
        open_records(local_file(path, tmp_path))
    path.write_text("")
    assert not list(open_records(local_file(path, tmp_path)).find())


@pytest.mark.parametrize(
    ("line", "is_open", "expected"),
    [(b'a,"b\n', False, True), (b'c"\n', True, False), (b'c""\n', True, True), (b'a"b,c\n', False, False)],
)
def test_lines_may_end_within_quotes(line: bytes, is_open: bool, expected: bool) -> None:
    """A quote opens a value at its beginning only, and a doubled one closes nothing."""
    assert is_within_quotes(line, b",", is_open=is_open) is expected
