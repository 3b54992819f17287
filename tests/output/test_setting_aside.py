"""Files set aside: tests/output/test_archive.py ends the process before every change of the disk."""

from pathlib import Path

import pytest

from vlora.errors import CheckpointError
from vlora.output.setting_aside import JOURNAL_NAME, Journal, complete, move_all, next_number


def test_named_files_are_moved_or_copied(tmp_path: Path) -> None:
    """What is not named stays, a file that is named and not there is passed over, and the journal goes."""
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)

    earlier = move_all(tmp_path, Journal(number=3, moved=("a", "missing"), copied=("b",)))

    assert earlier == tmp_path / "earlier-3"
    assert sorted(path.name for path in earlier.iterdir()) == ["a", "b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c", "earlier-3"]


def test_numbers_are_not_given_twice(tmp_path: Path) -> None:
    """Neither one of a folder, nor that of a numbered model beside it."""
    folder = tmp_path / "model"
    (folder / "earlier-1").mkdir(parents=True)
    assert next_number(folder) == 2
    (tmp_path / "model-earlier-2-0000100").mkdir()
    assert next_number(folder) == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        '{"number": 1, "moved": ["../victim"], "copied": [], "models": []}',
        '{"number": 1, "moved": ["/etc/passwd"], "copied": [], "models": []}',
        '{"number": 1, "moved": [], "copied": [".."], "models": []}',
        '{"number": 1, "moved": [], "copied": [], "models": ["victim"]}',
        '{"number": "x", "moved": [], "copied": [], "models": []}',
        "[" * 100_000,
    ],
)
def test_a_planted_journal_moves_nothing(text: str, tmp_path: Path) -> None:
    """What no run has written is named and refused."""
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "victim").write_text("mine")
    (out / JOURNAL_NAME).write_text(text)
    with pytest.raises(CheckpointError, match="remove it"):
        complete(out)
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(["out", JOURNAL_NAME, "victim"])
