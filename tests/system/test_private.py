"""Files and folders that only their user can have written."""

import errno
import os
import stat
from pathlib import Path

import pytest

from vlora.system.private import ForeignError, make_private, open_itself, open_own, why_foreign


def test_a_file_of_the_users_own_is_read(tmp_path: Path) -> None:
    """Its content, and what the system says of it."""
    file = tmp_path / "file"
    file.write_bytes(b"content")
    file.chmod(0o600)

    with open_own(file) as (opened, found):
        assert opened.read() == b"content"
        assert found.st_size == 7


def test_links_are_not_followed(tmp_path: Path) -> None:
    """Neither to read, nor to write; links on the way to a file are."""
    (tmp_path / "folder").mkdir()
    file = tmp_path / "folder" / "file"
    file.write_bytes(b"content")
    file.chmod(0o600)
    (tmp_path / "link").symlink_to(file)
    (tmp_path / "way").symlink_to(tmp_path / "folder")

    with pytest.raises(ForeignError, match=r"^a link$"), open_own(tmp_path / "link"):
        pass
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        open_itself(tmp_path / "link", os.O_WRONLY | os.O_CREAT)
    with open_own(tmp_path / "way" / "file") as (opened, _):
        assert opened.read() == b"content"


def test_a_file_that_others_may_write_is_not_read(tmp_path: Path) -> None:
    """Whether they are of the user's group or not."""
    file = tmp_path / "file"
    file.touch()
    for mode in (0o620, 0o602, 0o666):
        file.chmod(mode)
        with pytest.raises(ForeignError, match="a file that others may write"), open_own(file):
            pass


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """It is no regular file."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ForeignError, match="no regular file"), open_own(tmp_path / "pipe"):
        pass


def test_a_file_of_another_user_is_foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who it belongs to is what counts, and not who may read it."""
    (tmp_path / "file").touch()
    found = (tmp_path / "file").stat()
    monkeypatch.setattr(os, "getuid", lambda: found.st_uid + 1)

    assert why_foreign(found) == "another user's"
    assert make_private(tmp_path) == f"{tmp_path} belongs to another user"


def test_a_folder_is_made_for_its_user_alone(tmp_path: Path) -> None:
    """With the folders above it; one that others may write loses that right."""
    assert make_private(tmp_path / "a" / "b") is None
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700

    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert make_private(tmp_path / "open") is None
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o700


def test_what_is_no_folder_is_named(tmp_path: Path) -> None:
    """A link to a folder, and a file in its place."""
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").touch()

    assert make_private(tmp_path / "link") == f"{tmp_path / 'link'} is a link"
    assert str(make_private(tmp_path / "file")).startswith(f"{tmp_path / 'file'} cannot be used (")
