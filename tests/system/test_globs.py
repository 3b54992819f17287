"""Paths that name several files."""

from pathlib import Path

import pytest

from vlora.system.globs import find_files, is_pattern, list_files


def test_files_of_a_pattern(tmp_path: Path) -> None:
    """They come in the order of their paths, those in folders below too; hidden ones and folders do not."""
    for name in ("b.jsonl", "a.jsonl", "c.csv", ".d.jsonl", "deep/e.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "f.jsonl").mkdir()

    assert [Path(file).name for file in find_files(f"{tmp_path}/*.jsonl")] == ["a.jsonl", "b.jsonl"]
    assert [Path(file).name for file in find_files(f"{tmp_path}/**/[ae].jsonl")] == ["a.jsonl", "e.jsonl"]
    with pytest.raises(ValueError, match="no file matches it"):
        find_files(f"{tmp_path}/*.parquet")
    assert list_files(f"{tmp_path}/*.parquet") == []
    assert list_files("rows.jsonl") == ["rows.jsonl"]


@pytest.mark.parametrize(("path", "expected"), [("a/*.json", True), ("a?.csv", True), ("owner/name", False)])
def test_what_a_pattern_is(path: str, expected: bool) -> None:
    """It has a wildcard."""
    assert is_pattern(path) is expected


def test_a_file_of_that_name(tmp_path: Path) -> None:
    """A file whose name looks like a pattern is itself."""
    (tmp_path / "rows[1].jsonl").touch()

    assert not is_pattern(f"{tmp_path}/rows[1].jsonl")
    assert list_files(f"{tmp_path}/rows[1].jsonl") == [f"{tmp_path}/rows[1].jsonl"]
