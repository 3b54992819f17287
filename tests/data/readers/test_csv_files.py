"""Rows of files of separated values: text as it is written, and rows with a value too many or too few are bad."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.data.readers.files import rows_in, write
from vlora.data.readers import record_spans
from vlora.data.readers.csv_files import SEPARATORS, open_csv
from vlora.errors import SampleError

cells = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('",;\t|\r\n '), max_size=8)


@given(
    st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(cells, min_size=n, max_size=n), min_size=1, max_size=5)),
    st.sampled_from(SEPARATORS),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(1, 70),
)
def test_tables_come_back_as_written(
    tmp_path: Path, rows: list[list[str]], separator: str, quoting: Any, line_end: str, chunk: int
) -> None:
    """Any table that Python's csv writes has the values that were written, whatever separates them."""
    # A table of one column has no separator to be recognized by, and a lone line end is written without quotes.
    assume(len(rows[0]) > 1 or separator == ",")
    assume(line_end == "\r\n" or not any("\r" in cell for row in rows for cell in row))
    columns = ["image", "question", "answer", "more"][: len(rows[0])]
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=separator, quoting=quoting, lineterminator=line_end)
    writer.writerows([columns, *rows])
    path = write(tmp_path, "rows.csv", stream.getvalue())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_spans, "CHUNK_BYTES", chunk)
        table = open_csv(path)

    assert rows_in(table) == [dict(zip(columns, row, strict=True)) for row in rows]


@given(st.text(st.sampled_from('"",ab\n'), max_size=30))
def test_stray_quotes_are_read_as_csv_reads_them(tmp_path: Path, text: str) -> None:
    """Quotes within values are what Python's csv makes of them; it would drop those that a value goes on behind."""
    text = "a,b,c,d\n" + text.strip("\n")
    expected = list(csv.reader(io.StringIO(text, newline="")))
    path = write(tmp_path, "rows.csv", text)
    try:
        table = open_csv(path, separator=",")
    except ValueError as error:
        assert "none closes it" in str(error)  # noqa: PT017
        return
    found = []
    for index, row in enumerate(expected[1:]):
        try:
            found.append(list(table[index].values()))
        except SampleError as error:
            if "behind the quote" in str(error):
                start, end = int(table.spans[0].starts[index]), int(table.spans[0].ends[index])
                with pytest.raises(csv.Error, match="expected after"):
                    list(csv.reader(io.StringIO(path.read_bytes()[start:end].decode(), newline=""), strict=True))
            else:
                assert len(row) != len("abcd"), error  # noqa: PT017
            found.append(row)

    assert len(table) == len(expected) - 1
    assert found == expected[1:]


@pytest.mark.parametrize("value", [r'"a \"b\""', '"5" pipe"', r'"say \"no\", or"', '"a" '])
def test_a_quote_that_is_not_doubled_is_refused(tmp_path: Path, value: str) -> None:
    """A program that writes a backslash before quotes loses none of them: Python's csv would drop some in silence."""
    table = open_csv(write(tmp_path, "rows.csv", f'question,answer\nq,{value}\nq,"a ""b"""\n'))
    with pytest.raises(SampleError, match=r"line 2 of rows\.csv: a value goes on behind the quote .* twice"):
        table[0]
    assert table[1] == {"question": "q", "answer": 'a "b"'}


def test_lines_that_end_with_carriage_returns_are_refused(tmp_path: Path) -> None:
    """A file of old is not one without rows."""
    with pytest.raises(ValueError, match="carriage return"):
        open_csv(write(tmp_path, "rows.csv", "question,answer\rq,a\rq,b\r"))


@pytest.mark.parametrize("separator", SEPARATORS)
def test_separators_are_recognized_by_the_header(separator: str, tmp_path: Path) -> None:
    """Values that are full of another separator change nothing."""
    others = "".join(other for other in SEPARATORS if other != separator)
    lines = [f"image{separator}the answer", *(f"a{others}{separator}b{others * 3}" for _ in range(3))]
    table = open_csv(write(tmp_path, "rows.csv", "\ufeff" + "\n".join(lines)))

    assert rows_in(table) == [{"image": f"a{others}", "the answer": f"b{others * 3}"}] * 3
    assert table.kinds == {"image": "text", "the answer": "text"}


def test_cells_are_text(tmp_path: Path) -> None:
    """Nothing that stands in a cell is read into anything else; an empty one is an empty text."""
    cells = ["007", "12.50", "true", "None", "NA", "null", "2024-03-05", "1" * 23, ' "x"', '["cat"]', "", "1e5", "-"]
    path = write(tmp_path, "rows.tsv", "a\tb\n" + "".join(f"{cell}\tx\n" for cell in cells) + "last\t\n")
    table = open_csv(path)

    assert [row["a"] for row in rows_in(table)] == [*cells, "last"]
    assert table[len(cells)] == {"a": "last", "b": ""}


def test_too_many_values_are_a_bad_row(tmp_path: Path) -> None:
    """A value too many shifts none into another column; the error has the line, quoted line ends counted."""
    table = open_csv(write(tmp_path, "rows.csv", 'a,b\n"1\n2",3\n4,5,6\n\n7,8\n'))

    assert [table[0], table[3]] == [{"a": "1\n2", "b": "3"}, {"a": "7", "b": "8"}]
    with pytest.raises(SampleError, match=r"^line 4 of rows\.csv: found 3 values for 2 columns; .*','"):
        table[1]
    with pytest.raises(SampleError, match=r"^line 5 of rows\.csv: the line is blank"):
        table[2]


def test_too_few_values_are_a_bad_row(tmp_path: Path) -> None:
    """A line that was cut lacks no column in silence; an empty value is one."""
    table = open_csv(write(tmp_path, "rows.csv", 'image;question;answer\n1;"a\nb";c\n2;d\n3\n4;;\n'))

    assert table[3] == {"image": "4", "question": "", "answer": ""}
    with pytest.raises(SampleError, match=r"^line 4 of rows\.csv: found 2 values for 3 columns, none from 'answer' on"):
        table[1]
    with pytest.raises(SampleError, match=r"^line 5 of rows\.csv: found 1 value for 3 columns, none .*';'"):
        table[2]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('a,b\n1,2\n3,"4\n5,6\n', "line 3 of rows.csv: a quote opens a value"),
        ("a,b,a\n1,2,3\n", "two columns have the name 'a'"),
        (b"a,\xe9\n1,2\n", "the bytes e9, which are no UTF-8"),
    ],
)
def test_broken_tables_are_refused(text: str | bytes, problem: str, tmp_path: Path) -> None:
    """What makes all rows doubtful is no matter of one row."""
    with pytest.raises(ValueError, match=problem):
        open_csv(write(tmp_path, "rows.csv", text))


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("separator", SEPARATORS)
def test_a_line_that_names_the_separator_is_no_header(tmp_path: Path, separator: str, mark: str) -> None:
    """Excel reads it and other programs write it for Excel; lines of errors count it."""
    line = separator.join
    head, row, short = line(["file_name", "label"]), line(["a.png", "1,5;2|3\t4".replace(separator, " ")]), "alone"
    path = write(tmp_path, "metadata.csv", f"{mark}sep={separator}\r\n{head}\r\n{row}\r\n{short}\r\n")
    table = open_csv(path)

    assert table.columns == ["file_name", "label"]
    assert table[0]["file_name"] == "a.png"
    with pytest.raises(SampleError, match=r"line 4 of metadata\.csv: found 1 value for 2 columns"):
        table[1]


def test_a_column_may_be_named_as_a_separator_is(tmp_path: Path) -> None:
    """Only a line that names a separator, and nothing besides, is passed over."""
    assert rows_in(open_csv(write(tmp_path, "rows.csv", "sep=,b\n1,2\n"))) == [{"sep=": "1", "b": "2"}]
