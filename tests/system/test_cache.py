"""vlora's folder in the user's cache directory, and files that are written as a whole."""

import os
from pathlib import Path

import pytest

from vlora.system.cache import KERNELS_VARIABLE, cache_folder, kernels_root, write_new, write_whole


def test_the_users_cache_directory_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`XDG_CACHE_HOME` names it; without one it lies in the home directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "vlora"

    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "vlora"


def test_kernels_may_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In vlora's cache, or in the folder of the environment variable."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(KERNELS_VARIABLE, raising=False)
    assert kernels_root() == tmp_path / "vlora" / "kernels"

    monkeypatch.setenv(KERNELS_VARIABLE, str(tmp_path / "chosen"))
    assert kernels_root() == tmp_path / "chosen"


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """The new content is there, and nothing beside it."""
    assert write_whole(tmp_path / "file", b"old")
    assert write_whole(tmp_path / "file", b"new")

    assert (tmp_path / "file").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    """A folder that is not there, and a folder where the file should be; no half of a file is left."""
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").touch()

    assert not write_whole(tmp_path / "none" / "file", b"x")
    assert not write_whole(tmp_path / "taken", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_the_first_of_several_writers_succeeds(tmp_path: Path) -> None:
    """A file that is there stays as it is; the new one is its user's alone."""
    write_new(tmp_path / "file", b"first")
    write_new(tmp_path / "file", b"second")

    assert (tmp_path / "file").read_bytes() == b"first"
    assert (tmp_path / "file").stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_system_without_links_serves_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file gets its name by being renamed."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write_new(tmp_path / "file", b"content")

    assert (tmp_path / "file").read_bytes() == b"content"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_writer_that_is_overtaken_leaves_the_others_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has written the file since it was looked for."""
    (tmp_path / "file").write_bytes(b"other")
    monkeypatch.setattr(os.path, "lexists", lambda _: False)
    write_new(tmp_path / "file", b"own")

    assert (tmp_path / "file").read_bytes() == b"other"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
