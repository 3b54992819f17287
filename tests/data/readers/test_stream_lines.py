"""JSON Lines as a stream: the same rows and errors as read by number, any line found again."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlora.data.readers.json_files import open_json
from vlora.data.readers.stream import Found
from vlora.data.readers.stream_files import local_file
from vlora.data.readers.stream_lines import LinesReader
from vlora.errors import SampleError

LINES = st.lists(
    st.one_of(
        st.dictionaries(st.text(max_size=3), st.one_of(st.integers(), st.text(max_size=9)), max_size=3).map(json.dumps),
        st.sampled_from(["", "  ", "[1]", '{"a": 1.50}', '{"a": "\\u00e9"}', '{"a": "é"}', "{broken"]),
    ),
    max_size=12,
)


def read(reader: object, index: int) -> object:
    """Read a row, or its error without the part that names the row."""
    try:
        return reader[index]  # type: ignore[index]
    except SampleError as error:
        return str(error)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=LINES, end=st.sampled_from(["", "\n", "\r\n", "\n\n \n"]), mark=st.booleans())
def test_rows_are_those_of_the_file_read_by_number(tmp_path: Path, lines: list[str], end: str, mark: bool) -> None:
    """Blank lines within are bad rows and those at the end are none; numbers stay as they are written."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" * mark + ("\n".join(['{"q": 0}', *lines]) + end).encode())
    reader = LinesReader(local_file(path, tmp_path))
    table = open_json(path)
    found = list(reader.find())

    class Read:
        def __getitem__(self, index: int) -> object:
            return reader.read(found[index].number, found[index].offset)

    assert [row.number for row in found] == list(range(len(table)))
    assert [read(Read(), index) for index in range(len(found))] == [read(table, index) for index in range(len(table))]
    for place, row in enumerate(found):
        assert list(reader.find(Found(row.number, row.offset))) == found[place:]


@pytest.mark.parametrize(
    ("name", "text", "is_lines"),
    [
        ("rows.jsonl", '[\n{"a": 1}\n]', False),
        ("rows.json", '{\n"a": 1\n}', False),
        ("rows.json", '{"data": [{"a": 1}]}', False),
        ("rows.json", '{"a": 1}\n{"a": 2}\n', True),
        ("rows.json", "", True),
    ],
)
def test_documents_are_refused(tmp_path: Path, name: str, text: str, is_lines: bool) -> None:
    """They have no lines to read one after another."""
    path = tmp_path / name
    path.write_text(text)
    reader = LinesReader(local_file(path, tmp_path))
    if is_lines:
        assert len(list(reader.find())) == text.count("\n")
        return
    with pytest.raises(ValueError, match="it is one JSON document"):
        list(reader.find())


def test_errors_name_file_and_line(tmp_path: Path) -> None:
    """Of a line that is no JSON, and of one in another encoding."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": }\n{"a": "\xff"}\n')
    reader = LinesReader(local_file(path, tmp_path))
    _, second, third = reader.find()

    with pytest.raises(SampleError, match=r"^line 2 of rows\.jsonl: "):
        reader.read(second.number, second.offset)
    with pytest.raises(SampleError, match=r"^line 3 of rows\.jsonl: found the bytes ff, which are no UTF-8"):
        reader.read(third.number, third.offset)
    assert reader.keep(0, 0) is None
