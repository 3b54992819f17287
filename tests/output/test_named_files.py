"""Files that options name: new ones and the command's own are written, whatever else is there stays as it is."""

import os
from pathlib import Path

import pytest

from vlora.errors import RecipeError
from vlora.output.named_files import open_named, write_named
from vlora.output.paths import RUN_FILE_NAMES


def is_own(text: str) -> bool:
    """Whether a file is one of those that the tests write."""
    return text.startswith("ours")


def test_new_files_empty_ones_and_the_commands_own_are_written(tmp_path: Path) -> None:
    """Folders on the way are made; a link to such a file gives way, and what it led to stays."""
    for name in ("new.txt", "a/b/new.txt", "empty.txt", "own.txt", "link.txt"):
        (tmp_path / "empty.txt").touch()
        (tmp_path / "own.txt").write_text("ours, an older one")
        if name == "link.txt":
            (tmp_path / name).symlink_to(tmp_path / "own.txt")
        path = open_named(tmp_path / name, "--out", is_own)
        write_named(path, "ours, new")
        assert path.read_text() == "ours, new"
        assert not path.is_symlink()


@pytest.mark.parametrize("content", [b'{"question": "q"}\n', b"\xff\xfe\x00", b"\n ours"])
def test_what_others_wrote_is_refused(content: bytes, tmp_path: Path) -> None:
    """With the option and the name; nothing changes."""
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content)
    with pytest.raises(RecipeError, match=r"^--out: '.*rows\.jsonl' is there, was not written by this command"):
        open_named(file, "--out", is_own)
    (tmp_path / "link").symlink_to(file)
    with pytest.raises(RecipeError, match="is there, was not written by this command"):
        open_named(tmp_path / "link", "--out", is_own)
    assert file.read_bytes() == content


@pytest.mark.parametrize("name", RUN_FILE_NAMES)
def test_files_of_a_run_are_refused(name: str, tmp_path: Path) -> None:
    """They look like what a command writes, and belong to the run."""
    (tmp_path / "metrics.jsonl").write_text("ours")
    (tmp_path / name).write_text("ours")
    with pytest.raises(RecipeError, match="belongs to a run"):
        open_named(tmp_path / name, "--out", is_own)


def test_what_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    """A folder, a file where a folder has to be, and a name that is too long."""
    (tmp_path / "file").touch()
    for name, problem in (("", "is a folder"), ("file/x/y", "which is no folder"), ("n" * 300, "File name too long")):
        with pytest.raises(RecipeError, match=problem):
            open_named(f"{tmp_path}/{name}", "--out", is_own)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_stays_one(tmp_path: Path) -> None:
    """Its reader gets the text: /dev/null and /dev/stdout are not replaced by files."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_named(open_named(pipe, "--out", is_own), "text")
        assert os.read(reader, 99) == b"text"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
