"""Rows of streams by number: the first ones, and drawn ones."""

from pathlib import Path

from tests.data.streams import open_files, write_lines
from vlora.data.readers.stream import Drawn
from vlora.data.readers.stream_tables import DrawnTable, PlacesTable


def test_tables_read_rows_by_number(tmp_path: Path) -> None:
    """Of the first rows, and of drawn ones; both name a row and the folder of its pictures."""
    stream = open_files(write_lines(tmp_path, (2, 2)))
    first, drawn = PlacesTable(stream, stream.head(3)), DrawnTable(stream)
    drawn.put(70, list(stream.find([1]))[1])

    assert len(first) == 3
    assert first[2]["answer"] == "It is 2."
    assert first.place(2) == ("rows-1.jsonl row 0", tmp_path)
    assert drawn[70]["answer"] == "It is 3."
    assert drawn.place(70) == ("rows-1.jsonl row 1", tmp_path)
    assert (first.line(1), drawn.line(70)) == ("line 2 of rows-0.jsonl", "line 2 of rows-1.jsonl")
    assert drawn.mark(70) == stream.mark(1)
    drawn.drop([70, 71])
    assert not len(drawn)


def test_what_was_kept_of_a_row_is_given_up_with_its_last_read(tmp_path: Path) -> None:
    """A row that is measured and encoded is read from its file once; later reads find it there."""
    table = DrawnTable(open_files(write_lines(tmp_path, (1,))))
    (row,) = table.stream.find([0])
    kept = b'{"question": "kept?", "answer": "kept"}'
    table.put(0, Drawn(row.place, kept), n_reads=2)

    assert [table[0]["answer"] for _ in range(3)] == ["kept", "kept", "It is 0."]
    table.put(1, Drawn(row.place, kept))
    assert [table[1]["answer"] for _ in range(2)] == ["kept", "It is 0."]
