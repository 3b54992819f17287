"""Files and folders that only their owner can have written; symbolic links to them are not followed."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

OTHERS_WRITE = 0o022
"""Bits of a mode that let other users write."""


class ForeignError(Exception):
    """A file that other users may have written; it is neither used nor deleted."""


def open_itself(path: Path, flags: int) -> int:
    """Open a file that is not a symbolic link; the folders on the way to it may be links.

    Args:
        path: The file.
        flags: As for `os.open`.

    Raises:
        OSError: It cannot be opened; `errno.ELOOP` for a link.
    """
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o666)


@contextlib.contextmanager
def open_own(file: Path) -> Iterator[tuple[IO[bytes], os.stat_result]]:
    """Open a regular file that only the user can have written, for reading.

    Raises:
        ForeignError: It is a link or not a regular file, another user owns it, or others may write it.
        OSError: It cannot be opened.
    """
    if file.is_symlink():
        msg = "a link"
        raise ForeignError(msg)
    # Opening a pipe would block.
    with os.fdopen(open_itself(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as opened:
        found = os.fstat(opened.fileno())
        problem = why_foreign(found)
        if problem is not None:
            raise ForeignError(problem)
        yield opened, found


def why_foreign(found: os.stat_result) -> str | None:
    """Say why a file cannot be trusted; None if it is a regular one that only the user can have written."""
    if not stat.S_ISREG(found.st_mode):
        return "no regular file"
    if hasattr(os, "getuid"):
        if found.st_uid != os.getuid():
            return "another user's"
        if found.st_mode & OTHERS_WRITE:
            return "a file that others may write"
    return None


def make_private(folder: Path) -> str | None:
    """Make a folder that only its user can read and write, for files that will be executed or trusted.

    Args:
        folder: Its path; missing parent folders are made as well.

    Returns:
        Why the folder cannot be trusted or used; None if it can.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISLNK(found.st_mode):
            return f"{folder} is a link"
        if hasattr(os, "getuid") and found.st_uid != os.getuid():
            return f"{folder} belongs to another user"
        if found.st_mode & OTHERS_WRITE:
            folder.chmod(0o700)
    except OSError as error:
        return f"{folder} cannot be used ({error.strerror})"
    return None
