"""Files appear whole or not at all, and a full disk is named."""

import errno
import shutil
from pathlib import Path

import pytest

from vlora.output.atomic import write_whole, write_whole_folder


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    """A write that fails leaves the old file."""
    file = tmp_path / "a.txt"
    file.write_text("old")

    def fail(partial: Path) -> None:
        partial.write_text("half")
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011 - any
        write_whole(file, fail)

    assert file.read_text() == "old"


@pytest.mark.parametrize(("free", "number"), [(100, errno.ENOSPC), (2**40, errno.EIO)])
def test_what_mlx_cannot_write_on_a_full_disk_is_said(
    free: int, number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """MLX says that it could not write, and not why; the disk has no room for that much."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**40, 2**40 - free, free))
    problem = "[write] Unable to write 145102 bytes to file."

    def fail(_: Path) -> None:
        raise RuntimeError(problem)

    with pytest.raises(OSError, match="Unable to write 145102") as caught:
        write_whole(tmp_path / "a.safetensors", fail)

    assert caught.value.errno == number
    assert str(caught.value.strerror).startswith("No space left on device") == (number == errno.ENOSPC)


@pytest.mark.parametrize("is_folder", [False, True])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "the disk is full"), RuntimeError("the disk is full")])
def test_a_full_disk_has_a_name(error: Exception, is_folder: bool, tmp_path: Path) -> None:
    """What is raised on a full disk, by MLX too, names the file; what was begun makes room again."""

    def fail(partial: Path) -> None:
        (partial / "a" if is_folder else partial).write_text("half")
        raise error

    with pytest.raises(OSError, match="the disk is full") as caught:
        (write_whole_folder if is_folder else write_whole)(tmp_path / "b", fail)

    assert caught.value.filename == str(tmp_path / "b")
    assert not list(tmp_path.iterdir())
