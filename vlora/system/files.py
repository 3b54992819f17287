"""Files that rows name, opened with care: only regular files, and no more of one than is allowed.

A name comes from a data set. It may lead to a pipe that no process writes to, to a device without an end, or nowhere.
"""

import errno
import os
import stat
import urllib.parse
from pathlib import Path
from typing import BinaryIO

LARGEST_FILE = 512 * 2**20
"""Bytes of a file, and of a picture in any other form."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def expand(name: str | Path) -> Path:
    """Give a path with its "~" replaced, or that of a file:// address; an unknown user's is a name like any other."""
    if isinstance(name, str) and name[:7].lower() == "file://":
        return _of_address(name)
    try:
        return Path(name).expanduser()
    except (RuntimeError, ValueError):
        return Path(name)


def _of_address(url: str) -> Path:
    """Give the path of a file:// address; some write it as it is, others in percents."""
    path = url[len("file://") :]
    if not path.startswith("/"):
        path = "/" + path.partition("/")[2]
    return Path(path) if is_file(path) else Path(urllib.parse.unquote(path))


def is_file(path: str | Path) -> bool:
    """Whether there is a regular file, as far as can be seen; never raises."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file to read, whatever lies at its place.

    Raises:
        OSError: There is none, or something else than a regular file.
        ValueError: The name is none that a file could have, or the file is larger than `LARGEST_FILE`.
    """
    # A device may act on being opened, so that it is looked at before; what was opened is looked at again.
    _check(os.stat(path), path)  # noqa: PTH116 - a name with a NUL byte is to raise ValueError, as here
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    try:
        _check(os.fstat(descriptor), path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | Path) -> bytes:
    """Read a regular file.

    Raises:
        OSError: As `open_regular`.
        ValueError: As `open_regular`.
    """
    with open_regular(path) as file:
        data = file.read(LARGEST_FILE + 1)
    check_length(len(data))
    return data


def check_length(n_bytes: int) -> None:
    """Refuse a picture of too many bytes.

    Raises:
        ValueError: It has more than `LARGEST_FILE`.
    """
    if n_bytes > LARGEST_FILE:
        msg = f"it has {n_bytes:,} bytes, more than the {LARGEST_FILE:,} that a picture may have"
        raise ValueError(msg)


def _check(found: os.stat_result, path: str | Path) -> None:
    if stat.S_ISREG(found.st_mode):
        check_length(found.st_size)
        return
    kind = next((name for holds, name in _KINDS if holds(found.st_mode)), "no regular file")
    raise OSError(errno.EINVAL, f"it is {kind}; expected a file", str(path))
