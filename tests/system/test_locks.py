"""Locks on open files: one has it at a time, and whoever closes the file gives it up."""

import errno
import fcntl
from pathlib import Path

import pytest

from vlora.system import locks
from vlora.system.locks import is_at, lock


def test_one_open_file_has_it(tmp_path: Path) -> None:
    """Until it is closed; another one of the same process is refused as well."""
    path = tmp_path / "file"
    with path.open("wb") as other:
        with path.open("wb") as file:
            assert lock(file, waits=True)
            assert lock(other, waits=False) is False
        assert lock(other, waits=False)


@pytest.mark.parametrize("how", ["system", "file system"])
def test_without_locks(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is said, and is no error."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    if how == "system":
        monkeypatch.setattr(locks, "fcntl", None)
    else:
        monkeypatch.setattr(fcntl, "flock", refuse)
    with (tmp_path / "file").open("wb") as file:
        assert lock(file, waits=False) is None


def test_deleted_and_created_once_more(tmp_path: Path) -> None:
    """An open file is told from another one of its name, and from none."""
    path = tmp_path / "file"
    with path.open("wb") as file:
        assert is_at(file, path)
        path.unlink()
        assert not is_at(file, path)
        path.write_bytes(b"")
        assert not is_at(file, path)
