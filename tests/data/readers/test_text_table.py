"""Rows of JSON and CSV files: as written, found without being read, a bad one with its line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.data.readers.files import write
from vlora.data.readers import csv_files, json_files
from vlora.data.readers.csv_files import open_csv
from vlora.data.readers.json_files import open_json
from vlora.errors import SampleError


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
    for module, function in ((json_files, "parse_json"), (csv_files, "split_record")):
        real = getattr(module, function)

        def noting(*given: Any, real: Callable[..., Any] = real, **named: Any) -> Any:
            parsed.append(1)
            return real(*given, **named)

        monkeypatch.setattr(module, function, noting)
        monkeypatch.setattr(module, "SAMPLE_BYTES", 100)

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
