"""Rows of JSON and CSV files: as written, found without being read, a bad one with its line."""

import codecs
import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.data.format.test_values import json_objects
from tests.strategies import names
from vlora.data.format.values import Row, write_text
from vlora.data.readers import record_spans, text_files
from vlora.data.readers.text_files import SEPARATORS, TextTable, open_csv, open_json
from vlora.errors import SampleError

rows_of_json = st.lists(st.dictionaries(names, json_objects, max_size=4), max_size=6)
cells = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('",;\t|\r\n '), max_size=8)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_in(table: TextTable) -> list[Row]:
    return [table[index] for index in range(len(table))]


def texts_in(table: TextTable) -> list[dict[str, str | None]]:
    return [
        {key: None if value is None else write_text(value, "row") for key, value in row.items()}
        for row in rows_in(table)
    ]


def as_written(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str | None]]:
    """Say what is to be learned of rows that `json.dump` has written."""
    return [
        {
            key: value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for key, value in row.items()
        }
        for row in rows
    ]


@given(rows_of_json, st.booleans(), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans())
def test_json_lines_come_back_as_written(
    tmp_path: Path, rows: list[dict[str, Any]], ascii_only: bool, line_end: str, has_mark: bool, ends: bool
) -> None:
    """Any objects, a line each, have the texts that were written."""
    text = line_end.join(json.dumps(row, ensure_ascii=ascii_only) for row in rows) + (line_end if ends else "")
    path = write(tmp_path, "rows.jsonl", has_mark * codecs.BOM_UTF8 + text.encode())

    assert texts_in(open_json(path)) == as_written(rows)


@given(rows_of_json, st.sampled_from([None, 0, 2]), st.sampled_from([None, "data"]), st.integers(1, 70))
def test_json_documents_come_back_as_written(
    tmp_path: Path, rows: list[dict[str, Any]], indent: int | None, key: str | None, portion: int
) -> None:
    """So do the objects of a list, alone or in an object, in any layout, however few bytes are looked at together."""
    assume(rows or key is None)
    value = rows if key is None else {"version": '1,"]', key: rows, "more": {"a": [1, {"b": []}]}}
    path = write(tmp_path, "rows.json", json.dumps(value, indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_spans, "PORTION", portion)
        table = open_json(path)

    assert texts_in(table) == as_written(rows)


@given(
    st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(cells, min_size=n, max_size=n), min_size=1, max_size=5)),
    st.sampled_from(SEPARATORS),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(1, 70),
)
def test_tables_come_back_as_written(
    tmp_path: Path, rows: list[list[str]], separator: str, quoting: Any, line_end: str, portion: int
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
        patch.setattr(record_spans, "PORTION", portion)
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


def test_json_lines_in_a_file_called_json(tmp_path: Path) -> None:
    """What the first line is decides, not the ending alone."""
    for name in ("rows.json", "rows.jsonl"):
        assert rows_in(open_json(write(tmp_path, name, '{"a": 1}\n{"a": 2}\n'))) == [{"a": 1}, {"a": 2}]
        assert rows_in(open_json(write(tmp_path, name, '[\n{"a": 1},\n{"a": 2}]\n\n'))) == [{"a": 1}, {"a": 2}]
        assert rows_in(open_json(write(tmp_path, name, '{"a": [1, {"b": 2}, []]}'))) == [{"a": [1, {"b": 2}, []]}]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("[]", []),
        ('{"data": []}', []),
        ('{"question": ["q"]}', [{"question": ["q"]}]),
        ('{"question": ["p", "q"],\n "answer": ["007", 1.50]}', [("p", "007"), ("q", "1.50")]),
        ('{"question": "q",\n "answer": {"a": 1.50}}', [("q", '{"a": 1.50}')]),
        ('{"a": "]", "b":\n[{"question": "q", "answer": "\\\\\\"]"}]}', [("q", '\\"]')]),
    ],
)
def test_shapes_of_documents(text: str, rows: list[Any], tmp_path: Path) -> None:
    """A document may have its rows in a list, in columns, or be one."""
    table = open_json(write(tmp_path, "rows.json", text))
    columns = ("question", "answer")

    assert texts_in(table) == [
        as_written([row])[0] if isinstance(row, dict) else dict(zip(columns, row, strict=True)) for row in rows
    ]


def test_the_list_of_a_document_can_be_named(tmp_path: Path) -> None:
    """Of several lists the one that the data set's own settings name is read."""
    path = write(tmp_path, "rows.json", '{"a": [{"x": 1}], "b": [{"x": 2}]}')

    assert rows_in(open_json(path, field="b")) == [{"x": 2}]
    with pytest.raises(ValueError, match="no list under 'c'; its keys are a, b"):
        open_json(path, field="c")


def test_a_document_may_have_a_list_for_each_split(tmp_path: Path) -> None:
    """The list of the split is read, or the splits are named; they are told from a row that has several lists."""
    path = write(tmp_path, "rows.json", '{"version": "1", "train": [{"a": 1}],\n "test": [{"a": 2}], "later": []}')

    assert [rows_in(open_json(path, split=split)) for split in ("train", "test", "later")] == [
        [{"a": 1}],
        [{"a": 2}],
        [],
    ]
    with pytest.raises(ValueError, match=r"a list for each of train, test, later; name one of them in data\.split"):
        open_json(path, split="validation")
    row = {"messages": [{"role": "user", "content": "q"}], "tools": [{"name": "look"}]}
    assert rows_in(open_json(write(tmp_path, "row.json", json.dumps(row)), split="train")) == [row]


@pytest.mark.parametrize("message", [{"role": "user", "content": "q"}, {"from": "human", "value": "q"}])
def test_a_document_may_be_a_conversation(message: dict[str, str], tmp_path: Path) -> None:
    """Messages of a document that is one row are no rows, as its other lists of objects would be."""
    row = {"id": "1", "talk": [message]}

    assert rows_in(open_json(write(tmp_path, "rows.json", json.dumps(row, indent=1)))) == [row]


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("", "the line is blank"),
        ("null", "found null, expected an object"),
        ("[1]", "found a list"),
        ('"text"', "found a string"),
        ("12.50", "found 12.50,"),
        ('{"a": ', "Expecting value at character 7 of it$"),
        ("  not json", "Expecting value at character 1 of it$"),
        ('{"a": "x', "Unterminated string starting at character 7 of it$"),
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ('{"a": "\\ud800"}', "half a character"),
        ("[" * 100_000, "too deep"),
        ('{"a": ' * 100_000 + "1" + "}" * 100_000, "too deep"),
        (b'{"a": "\xe9t\xe9"}', "the bytes e9, which are no UTF-8"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_bad_lines_are_bad_rows(bad: str | bytes, problem: str, tmp_path: Path) -> None:
    """One line that is no row is one row's error, with its line; the others are read."""
    raw = bad.encode() if isinstance(bad, str) else bad
    table = open_json(write(tmp_path, "rows.jsonl", b'{"a": 1}\n{"a": "\\n"}\n' + raw + b'\n{"a": 3}\n'))

    assert [table[0], table[1], table[3]] == [{"a": 1}, {"a": "\n"}, {"a": 3}]
    with pytest.raises(SampleError, match=rf"^line 3 of rows\.jsonl: .*{problem}"):
        table[2]


def test_bad_members_are_bad_rows(tmp_path: Path) -> None:
    """In a document, too, an error names the line on which the row begins."""
    table = open_json(write(tmp_path, "rows.json", '[\n  {"a": 1},\n\n  null,\n  {"a":\n 3}]'))

    assert [table[0], table[2]] == [{"a": 1}, {"a": 3}]
    with pytest.raises(SampleError, match=r"^line 4 of rows\.json: found null"):
        table[1]


def test_a_bad_value_of_a_column_has_its_own_line(tmp_path: Path) -> None:
    """In a document with its rows by column the line is that of the value, and the column is named."""
    table = open_json(write(tmp_path, "rows.json", '{"a": [1,\n2],\n"b": ["x",\n\n nul]}'))

    assert table[0] == {"a": 1, "b": "x"}
    with pytest.raises(SampleError, match=r"^line 5 of rows\.json: the column 'b': Expecting value at character 1"):
        table[1]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[{"a": 1}', "line 1 of rows.json: the document ends before"),
        ('{"a": [{"b": "]}\n}', "line 2 of rows.json: the document ends before"),
        ('[\n{"a": 1}]\n[', "line 2 of rows.json: something stands behind the end"),
        ('{\na: [1, {"b": 2}]}', "an object's key cannot be read"),
    ],
)
def test_broken_documents_are_refused(text: str, problem: str, tmp_path: Path) -> None:
    """A document whose brackets do not match has no rows; the error names the line."""
    with pytest.raises(ValueError, match=problem):
        open_json(write(tmp_path, "rows.json", text))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
@pytest.mark.parametrize(
    ("encoding", "problem"),
    [("utf-16", "UTF-16"), ("utf-16-le", "UTF-16 and UTF-32 have"), ("utf-32", "UTF-32"), ("utf-32-be", "UTF-32")],
)
def test_other_encodings_are_refused_by_name(name: str, encoding: str, problem: str, tmp_path: Path) -> None:
    """A file of another encoding is not read as if it were UTF-8."""
    path = write(tmp_path, name, '{"a": 1}\n'.encode(encoding))

    with pytest.raises(ValueError, match=f"{problem}.*write it as UTF-8"):
        open_csv(path) if name.endswith("csv") else open_json(path)


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


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.tsv"])
def test_files_without_rows(name: str, tmp_path: Path) -> None:
    """An empty file has no rows, nor has a header alone."""
    for text in ("", "\n\n", "\ufeff", "a,b\n" if "sv" in name else " "):
        path = write(tmp_path, name, text)
        assert len(open_csv(path) if "sv" in name else open_json(path)) == 0


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_rows_are_found_without_being_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many rows only those are parsed that are asked for, and only a few to find out how the file is written."""
    n_rows = 20_000
    if name.endswith("csv"):
        text = "a,b\n" + "".join(f'{number},"x\n{number}"\n' for number in range(n_rows))
    else:
        rows = [json.dumps({"a": str(number), "b": f"x\n{number}"}) for number in range(n_rows)]
        text = "\n".join(rows) if name.endswith("l") else "[" + ",\n".join(rows) + "]"
    path = write(tmp_path, name, text)
    parsed = []
    for function in ("parse_json", "split_record"):
        real = getattr(text_files, function)

        def noting(*given: Any, real: Callable[..., Any] = real, **named: Any) -> Any:
            parsed.append(1)
            return real(*given, **named)

        monkeypatch.setattr(text_files, function, noting)
    monkeypatch.setattr(text_files, "_SAMPLE_BYTES", 100)

    table = open_csv(path) if name.endswith("csv") else open_json(path)
    assert len(table) == n_rows
    n_parsed = len(parsed)
    assert n_parsed < 200
    assert table[n_rows - 1] == {"a": str(n_rows - 1), "b": f"x\n{n_rows - 1}"}
    assert len(parsed) == n_parsed + 1


def test_large_values(tmp_path: Path) -> None:
    """A picture of a megabyte in a cell or a line is a value like any other."""
    large = "A" * 2**20
    assert open_csv(write(tmp_path, "rows.csv", f'image,b\n"{large}",1\n'))[0]["image"] == large
    assert open_json(write(tmp_path, "rows.jsonl", json.dumps({"image": large})))[0]["image"] == large


def test_a_file_that_changes_is_an_error_of_a_row(tmp_path: Path) -> None:
    """A file that has become shorter since it was searched, or is gone, ends in a sentence."""
    values = ["a", "é"]
    path = write(tmp_path, "rows.jsonl", "".join(json.dumps({"a": value}) + "\n" for value in [*values, "b"]))
    table = open_json(path)
    path.write_bytes(b"")

    with pytest.raises(SampleError, match=r"rows\.jsonl: the line is blank"):
        table[len(values)]
    path.unlink()
    with pytest.raises(SampleError, match=r"^cannot read rows\.jsonl: "):
        table[len(values)]
