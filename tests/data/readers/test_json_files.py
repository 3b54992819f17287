"""Rows of JSON and JSON Lines: every shape of a document, values as they are written, and errors with their line."""

import codecs
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.data.readers.files import rows_in, write
from tests.data.test_values import json_objects
from tests.strategies import names
from vlora.data.readers import record_spans
from vlora.data.readers.json_files import open_json
from vlora.data.readers.text_table import TextTable
from vlora.data.values import write_text
from vlora.errors import SampleError

rows_of_json = st.lists(st.dictionaries(names, json_objects, max_size=4), max_size=6)


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
    tmp_path: Path, rows: list[dict[str, Any]], indent: int | None, key: str | None, chunk: int
) -> None:
    """So do the objects of a list, alone or in an object, in any layout, however few bytes are looked at together."""
    assume(rows or key is None)
    value = rows if key is None else {"version": '1,"]', key: rows, "more": {"a": [1, {"b": []}]}}
    path = write(tmp_path, "rows.json", json.dumps(value, indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_spans, "CHUNK_BYTES", chunk)
        table = open_json(path)

    assert texts_in(table) == as_written(rows)


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
