"""Streams of folders and of the hub: files by split, addresses that are read like files, what is refused."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest

from tests.data.streams import write_lines, write_shards, write_tar
from vlora.data.readers.stream import RowStream
from vlora.data.readers.stream_hub import files_of, find_split
from vlora.data.readers.stream_kinds import reader_for
from vlora.errors import SplitError


def test_a_folder_has_splits(tmp_path: Path) -> None:
    """By the names of its files, as `datasets` finds them."""
    write_shards(tmp_path / "train", (1, 2))
    write_shards(tmp_path / "test", (1,))
    found = find_split(str(tmp_path), "train", None, None)

    assert [file.name for file in found] == ["rows-0.tar", "rows-1.tar"]
    assert [file.folder for file in found] == [tmp_path / "train"] * 2
    with pytest.raises(SplitError, match="it has the splits"):
        find_split(str(tmp_path), "other", None, None)


def put(address: str, data: bytes) -> None:
    """Write a file of the memory, which is read as those of the hub are."""
    importlib.import_module("fsspec").filesystem("memory").pipe(address, data)


class Json:
    """A builder of a repository, as `datasets` makes them."""

    def __init__(self, files: list[str], features: Any = None, **settings: Any) -> None:
        """Have the files of one split."""
        from datasets.packaged_modules.json.json import JsonConfig

        self.config = JsonConfig(**settings)
        self.config.data_files = {"train": files}
        self.info = SimpleNamespace(features=features)


def test_files_at_addresses_are_read_while_they_are_streamed() -> None:
    """Rows of the hub are kept in the buffer, since they cannot be read one by one; they can be found again."""
    put("memory://repo@main/a.jsonl", b'{"n": 1.50}\n{"n": 2}\n')
    put("memory://repo@main/b.jsonl", b'{"n": 3}\n{"n": }\n')
    found = files_of(Json(["memory://repo@main/b.jsonl", "memory://repo@main/a.jsonl"]), "train")
    stream = RowStream(files=found, open_reader=reader_for(found))
    rows = list(stream.find([0, 1]))

    assert [file.name for file in found] == ["main/a.jsonl", "main/b.jsonl"]
    assert [row.kept for row in rows] == [b'{"n": 1.50}\n', b'{"n": 2}\n', b'{"n": 3}\n', b'{"n": }\n']
    assert [stream.read(row) for row in rows[:3]] == [{"n": 1.5}, {"n": 2}, {"n": 3}]
    assert stream.restore([row.place for row in rows]) == rows
    assert list(stream.find([0, 1], rows[1].place)) == rows[2:]
    assert stream.mark(0).files == ()
    with pytest.raises(ValueError, match=r"line 2 of main/b\.jsonl"):
        stream.read(rows[3])


def test_archives_at_addresses_are_read_while_they_are_streamed(tmp_path: Path) -> None:
    """Members are kept as they are stored."""
    data = write_tar(tmp_path / "rows.tar", [("1.txt", "a"), ("2.txt", "b")]).read_bytes()
    put("memory://repo@main/rows.tar", data)
    found = files_of(Json(["memory://repo@main/rows.tar"]), "train")
    stream = RowStream(files=found, open_reader=reader_for(found))
    rows = list(stream.find([0]))

    assert [row.kept for row in rows] == [[("1.txt", b"a")], [("2.txt", b"b")]]
    assert stream.restore([rows[1].place]) == rows[1:]
    assert stream.read(rows[1]) == {"text": "b"}


def test_what_the_files_do_not_say_is_refused() -> None:
    """Settings that change how files are read, labels, and rows that a builder makes."""
    labels = datasets.Features({"kind": datasets.ClassLabel(names=["a"])})
    with pytest.raises(ValueError, match="the names of 'kind' stand apart from its rows"):
        files_of(Json([], labels), "train")
    with pytest.raises(ValueError, match="its own settings say field = 'rows'"):
        files_of(Json([], field="rows"), "train")
    with pytest.raises(ValueError, match="its rows are made by 'SimpleNamespace'"):
        files_of(SimpleNamespace(info=SimpleNamespace(features=None)), "train")


def test_a_folder_of_lines_is_streamed(tmp_path: Path) -> None:
    """Its text is as it is written: `datasets` only says which files there are."""
    write_lines(tmp_path, (1,))
    (tmp_path / "rows-1.jsonl").write_text(json.dumps({"n": "007"}))
    found = find_split(str(tmp_path), "train", None, None)
    stream = RowStream(files=found, open_reader=reader_for(found))

    assert stream.read(next(stream.find([1]))) == {"n": "007"}


def test_a_folder_of_tables_is_streamed(tmp_path: Path) -> None:
    """Tabs between values are what the ending says, and no setting of the folder's own."""
    for number in range(2):
        (tmp_path / f"{number}.tsv").write_text(f"question\tanswer\nWhat, is {number}?\t{number}\n")
    files = find_split(str(tmp_path), "train", None, None)
    stream = RowStream(files=files, open_reader=reader_for(files))

    assert [file.name for file in files] == ["0.tsv", "1.tsv"]
    assert [stream.read(drawn)["question"] for drawn in stream.restore(stream.head(9))] == [
        "What, is 0?",
        "What, is 1?",
    ]
