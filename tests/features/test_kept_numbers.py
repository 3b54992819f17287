"""Numbers of rows in one file: whole or not there, and made anew where it is damaged."""

from pathlib import Path

import pytest

from vlora.features.kept_numbers import KeptNumbers


def test_numbers_come_back(tmp_path: Path) -> None:
    """In float32, under their keys; another name has others."""
    kept = KeptNumbers.open(tmp_path / "references", "a")
    kept.numbers |= {"x": -12.25, "y": 0.5}
    kept.save()

    assert KeptNumbers.open(tmp_path / "references", "a").numbers == {"x": -12.25, "y": 0.5}
    assert KeptNumbers.open(tmp_path / "references", "b").numbers == {}
    assert [file.name for file in (tmp_path / "references").iterdir()] == ["a.npz"]


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_damaged_file_is_made_anew(content: bytes | None, tmp_path: Path) -> None:
    """It is told, and written again."""
    kept = KeptNumbers.open(tmp_path, "a")
    kept.numbers["x"] = 1.0
    kept.save()
    file = tmp_path / "a.npz"
    file.write_bytes(file.read_bytes()[:-40] if content is None else content)

    found = KeptNumbers.open(tmp_path, "a")
    assert not found.numbers
    assert found.note is not None
    assert "a.npz: cannot be read" in found.note
    found.numbers["x"] = 2.0
    found.save()
    assert KeptNumbers.open(tmp_path, "a").numbers == {"x": 2.0}


def test_what_cannot_be_written_stays_in_memory(tmp_path: Path) -> None:
    """Without a folder, or where a file stands in its place; the latter is told."""
    (tmp_path / "file").write_text("x")
    nowhere, blocked = KeptNumbers.open(None, "a"), KeptNumbers.open(tmp_path / "file", "a")
    for kept in (nowhere, blocked):
        kept.numbers["x"] = 1.0
        kept.save()

    assert nowhere.note is None
    assert blocked.note is not None
    assert "cannot be written" in blocked.note
