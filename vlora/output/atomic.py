"""Files that appear whole or not at all, and stay through a loss of power."""

import contextlib
import errno
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from ..system.private import open_itself

PARTIAL = ".partial-"
"""Begins the names of what is not whole."""

ROOM = 2**20
"""Bytes that a file system may keep for itself: with fewer left a disk is full."""

MODEL_NAME = "config.json"
"""The file that makes a folder a model's."""


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file under a hidden name beside `path`, then rename it: readers see the old file or the new one.

    It is on the disk, and not only on its way there, before it is renamed, and under its name when this returns.

    Args:
        path: The file; its folder is made if need be.
        write: Writes to the path that it is given.

    Raises:
        OSError: It could not be written; of what was begun nothing is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays: MLX chooses its format by it.
    partial = path.with_name(f"{PARTIAL}{path.name}")
    with _naming(path, partial):
        remove(partial)
        write(partial)
        sync(partial)
    partial.replace(path)
    sync(path.parent)


def write_whole_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder under a hidden name, then rename it into place; files of an older one that it lacks are kept.

    Args:
        folder: The folder.
        write: Fills the empty folder that it is given.

    Raises:
        OSError: As for `write_whole`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f"{PARTIAL}{folder.name}")
    remove(partial)
    partial.mkdir()
    with _naming(folder, partial):
        write(partial)
        for file in partial.iterdir():
            sync(file)
        sync(partial)
    if folder.exists():
        if len(list(partial.glob("*.safetensors"))) > 1:
            # No model, until all files of its weights are of the same step.
            (folder / MODEL_NAME).unlink(missing_ok=True)
        # Last what makes the folder a model: one that lacks a file is none.
        for file in sorted(partial.iterdir(), key=lambda file: (file.name == MODEL_NAME, file.name)):
            file.replace(folder / file.name)
        partial.rmdir()
        sync(folder)
    else:
        partial.replace(folder)
    sync(folder.parent)


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, would survive a loss of power.

    Raises:
        OSError: It was not written. File systems that cannot say so of folders are believed.
    """
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        if sys.platform == "darwin":
            import fcntl

            # There fsync leaves it in the disk's own memory. Network drives know this command only.
            with contextlib.suppress(OSError):
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
                return
        os.fsync(descriptor)
    except OSError as error:
        if not is_folder or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _naming(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Give an error of writing the file's name, which it lacks on a full disk; remove what was begun."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if partial is not None:
            remove(partial)
        if isinstance(error, OSError) and error.filename is not None:
            raise
        code, reason = (error.errno, error.strerror) if isinstance(error, OSError) else _explain(path, str(error))
        raise OSError(code, reason, str(path)) from error


def _explain(path: Path, problem: str) -> tuple[int, str]:
    """Give an error of MLX's, which has no number, the one of a full disk if there is no room for what it wrote."""
    found = re.search(r"Unable to write (\d+) bytes", problem)
    try:
        is_full = found is not None and shutil.disk_usage(path.parent).free < int(found[1]) + ROOM
    except OSError:
        is_full = False
    return (errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}; {problem}") if is_full else (errno.EIO, problem)


def remove(path: Path) -> None:
    """Remove what a process that was ended has left; of a link the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def append_text(path: Path, text: str) -> None:
    """Add to a text file, which is not a link to one."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    with _naming(path), os.fdopen(open_itself(path, flags), "a", encoding="utf-8") as file:
        file.write(text)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    write_whole(path, lambda partial: _ignore(partial.write_text(text, encoding="utf-8")))


def _ignore(_: object) -> None:
    """Drop a result."""
