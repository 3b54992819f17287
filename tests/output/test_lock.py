"""One run a folder: who comes second is told, who comes after a killed run is not kept out, nothing is left behind."""

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vlora.errors import RecipeError
from vlora.output import lock
from vlora.output.lock import LOCK_NAME, exclusive_run_lock
from vlora.system import locks

HOLD = """
import sys, pathlib
from vlora.output.lock import exclusive_run_lock
with exclusive_run_lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def another_process(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Let another process hold a folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_run_is_refused(tmp_path: Path) -> None:
    """The message names folder, process and machine, and what to do; the one that was first keeps the folder."""
    folder = tmp_path / "out"
    with another_process(folder) as process:
        for _ in range(2):
            with pytest.raises(RecipeError) as caught, exclusive_run_lock(folder):
                pass
            for words in (str(folder), f"process {process.pid} on ", "wait for its end", "--set output.path="):
                assert words in str(caught.value)


def test_a_killed_run_locks_nobody_out(tmp_path: Path) -> None:
    """What a process leaves that was killed is only a file."""
    folder = tmp_path / "out"
    with another_process(folder) as process:
        process.kill()
        process.wait()
        assert (folder / LOCK_NAME).exists()
        with exclusive_run_lock(folder):
            with pytest.raises(RecipeError, match="of this same process"), exclusive_run_lock(folder):
                pass
            assert str(os.getpid()) in (folder / LOCK_NAME).read_text()
    assert not folder.joinpath(LOCK_NAME).exists()


def test_nothing_is_left(tmp_path: Path) -> None:
    """Folders that were made are removed again unless something was written; those that were there stay."""
    with pytest.raises(ZeroDivisionError), exclusive_run_lock(tmp_path / "a" / "b"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())

    with exclusive_run_lock(tmp_path / "a" / "b"):
        (tmp_path / "a" / "file").write_text("")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]

    (tmp_path / "c").mkdir()
    with exclusive_run_lock(tmp_path / "c"):
        pass
    assert (tmp_path / "c").is_dir()


@pytest.mark.parametrize("code", [None, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_nobody_is_kept_out(code: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system or the file system has no locks, runs go on as if there were none."""

    def flock(*_: object) -> None:
        raise OSError(code, "no locks")

    if code is None:
        monkeypatch.setattr(locks, "fcntl", None)
    else:
        monkeypatch.setattr(fcntl, "flock", flock)
    with exclusive_run_lock(tmp_path / "out"), exclusive_run_lock(tmp_path / "out"):
        pass

    assert not list(tmp_path.iterdir())


def test_a_file_that_its_holder_removes_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opened the file of a run that ended just then holds one that the next run finds."""
    own = lock._lock
    left = [1]

    def slow(file: object, path: Path) -> None:
        if left:
            left.pop()
            path.unlink()
        own(file, path)  # type: ignore[arg-type]

    monkeypatch.setattr(lock, "_lock", slow)
    with exclusive_run_lock(tmp_path):
        assert not left
        with pytest.raises(RecipeError), exclusive_run_lock(tmp_path):
            pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A file in the way is an error of the system, with its name."""
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(OSError) as caught, exclusive_run_lock(folder):  # noqa: PT011 - its name counts
            pass
        assert str(tmp_path / "file") in str(caught.value.filename)
