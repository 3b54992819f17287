"""How far a stream was read: notes that are written in full later, restarts, files without rows."""

from pathlib import Path
from typing import Any

import pytest

from tests.data.streams import open_files, write_lines
from vlora.data import stream_cursor
from vlora.data.stream_cursor import StreamCursor, StreamProgress
from vlora.errors import RecipeError


def begin(path: str, **keys: Any) -> StreamCursor:
    """Begin to read a stream."""
    given: dict[str, Any] = {"seed": 0, "shuffle": True, "buffer_size": 5} | keys
    return StreamCursor(stream=open_files(path), **given)


@pytest.mark.parametrize("most_noted", [0, 7, 4096])
@pytest.mark.parametrize("shuffle", [True, False])
def test_notes_are_exact_whenever_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_noted: int, shuffle: bool
) -> None:
    """A note that is written after many more rows begins where it was made, however often a newer base was made."""
    monkeypatch.setattr(stream_cursor, "MOST_NOTED", most_noted)
    path = write_lines(tmp_path, (9, 0, 30))
    cursor = begin(path, shuffle=shuffle)
    found = [(cursor.note(), cursor.take()) for _ in range(100)]
    whole = [row.place for _, (row, _) in found]
    progress = [note.find() for note, _ in found]

    assert [after.n_given for after in progress] == list(range(100))
    assert [n_rows for _, (_, n_rows) in found if n_rows] == [39, 39]
    assert len(progress[50].waiting) == (5 if shuffle else 1)
    for step in range(0, 100, 7):
        again = begin(path, shuffle=shuffle, start=progress[step])
        assert [again.take()[0].place for _ in range(100 - step)] == whole[step:]
    assert StreamProgress.parse(progress[50].dump(cursor.stream), cursor.stream, allows_changes=False) == progress[50]


def test_notes_do_not_copy_what_waits(tmp_path: Path) -> None:
    """Those of many steps share one list of places, which does not grow with the run."""
    cursor = begin(write_lines(tmp_path, (20_000,)), buffer_size=1000)
    notes = []
    for _ in range(19_000):
        cursor.take()
        notes.append(cursor.note())
    lists = {id(note.noted): len(note.noted) for note in notes}

    assert len(lists) < 10
    assert max(lists.values()) <= 4096 + 2


def test_an_epoch_without_rows_is_an_error(tmp_path: Path) -> None:
    """It names the key of the source."""
    cursor = begin(write_lines(tmp_path, (0,)), key="data.sources[1]")
    with pytest.raises(RecipeError, match=r"data\.sources\[1\]\.path: the stream has no rows any more"):
        cursor.take()
