"""Shards that their writers have not finished: they are deleted when the writer has ended, and not before."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.features.shards import TOWER, entry, is_equal, opened, written
from vlora.features import unfinished
from vlora.features.unfinished import create_locked, publish, remove_abandoned
from vlora.system import locks

NAME = f".{'0' * 32}.safetensors"

WRITER = f"""
import sys, time
from pathlib import Path
from vlora.features.shard_folder import ShardFolder
shards = ShardFolder(Path(sys.argv[1]), {TOWER!r}, 10**9)
files = [shards._open_in_room(shards.path / f".{{number:032x}}.safetensors", 100_000_000) for number in range(4)]
print("writes", flush=True)
time.sleep(600)
"""


def test_a_killed_writer_takes_no_room(tmp_path: Path) -> None:
    """Four shards at their full sizes fill the budget while their writer lives, and are gone once it is killed."""
    written(tmp_path)
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        try:
            assert writer.stdout.readline() == b"writes\n"
            during = opened(tmp_path, 10**8)
            assert len(list(tmp_path.rglob(".*.safetensors"))) == 4
            during.add("more", entry(2))
            during.flush()
            assert ["no room" in note for note in during.notes] == [True]
        finally:
            writer.send_signal(signal.SIGKILL)
    after = opened(tmp_path, 10**8)
    after.add("more", entry(2))
    after.flush()

    assert not list(tmp_path.rglob(".*.safetensors"))
    assert is_equal(after.read("key"), entry(1))
    assert is_equal(after.read("more"), entry(2))
    assert not after.notes


def test_what_is_written_is_left_alone(tmp_path: Path) -> None:
    """Until it has its name: by then no one finds it under the other."""
    path, finished = tmp_path / NAME, tmp_path / NAME[1:]
    with create_locked(path) as file:
        remove_abandoned(path)
        file.write(b"whole")
        publish(file, path, finished)
    remove_abandoned(path)

    assert [found.name for found in tmp_path.iterdir()] == [finished.name]
    assert finished.read_bytes() == b"whole"
    assert finished.stat().st_mode & 0o777 == 0o600


def test_taken_for_abandoned_before_it_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that another process deletes between its creation and its lock is created once more."""
    path, lock, calls = tmp_path / NAME, fcntl.flock, []

    def delete_first(file: int, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:
            path.unlink()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", delete_first)
    with create_locked(path) as file:
        assert os.path.samestat(os.fstat(file.fileno()), path.stat())
    assert calls == [fcntl.LOCK_EX, fcntl.LOCK_EX]


@pytest.mark.parametrize("how", ["system", "file system"])
def test_without_locks(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are none, age decides."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    if how == "system":
        monkeypatch.setattr(locks, "fcntl", None)
    else:
        monkeypatch.setattr(fcntl, "flock", refuse)
    path = tmp_path / NAME
    with create_locked(path) as file:
        file.write(b"part")
    remove_abandoned(path)
    assert path.exists()
    long_ago = path.stat().st_mtime - 2 * unfinished.ABANDONED_S
    os.utime(path, (long_ago, long_ago))
    remove_abandoned(path)
    assert not path.exists()


@pytest.mark.parametrize("how", ["link", "pipe", "mode"])
def test_what_no_run_wrote_is_left_alone(how: str, tmp_path: Path) -> None:
    """A link, a pipe, and a file that others may write."""
    path = tmp_path / NAME
    if how == "link":
        path.symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere").write_bytes(b"x")
    elif how == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"x")
        path.chmod(0o666)
    remove_abandoned(path)

    assert os.path.lexists(path)
