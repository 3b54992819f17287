"""Files that rows name: only regular files are opened, and only up to a size limit.

A name comes from a data set. It may lead to a pipe that no process writes to, to a device that never ends, or nowhere.
"""

import errno
import os
import stat
import unicodedata
import urllib.parse
from pathlib import Path
from typing import BinaryIO, TextIO

LARGEST_FILE = 512 * 2**20
"""Largest file in bytes, and largest picture in any other form."""

_ENDINGS = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".webp")

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def expand(name: str | Path) -> Path:
    """Give a path with its "~" replaced, or that of a file:// address; "~" of an unknown user is kept as it is."""
    if isinstance(name, str) and name[:7].lower() == "file://":
        return _of_address(name)
    try:
        return Path(name).expanduser()
    except (RuntimeError, ValueError):
        return Path(name)


def _of_address(url: str) -> Path:
    """Give the path of a file:// address; percent-encoded or not."""
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


def find_alike(path: Path) -> tuple[Path, str] | None:
    """Find a file under a name that a list of names may mean by one under which there is none.

    Folders are not listed: rows may name a million files that are not there.

    Args:
        path: The name under which there is no file.

    Returns:
        The file, and how its name differs; None if there is none.
    """
    if not path.name:
        return None
    text = str(path)
    ways = {
        "with slashes between folders": [text.replace("\\", "/")],
        "without spaces around it": [str(path.parent / (path.name.strip() or path.name))],
        "in another Unicode form": [unicodedata.normalize(form, text) for form in ("NFC", "NFD")],
        "in another case": [str(path.with_name(name)) for name in _other_cases(path)],
        "with an ending": [text + ending for ending in _ENDINGS if not path.suffix],
        "with another ending": [str(path.with_suffix(ending)) for ending in _ENDINGS if path.suffix],
    }
    for how, names in ways.items():
        for name in names:
            if name != text and is_file(name):
                return Path(name), how
    return None


def _other_cases(path: Path) -> list[str]:
    stem, suffix = path.stem, path.suffix
    stems = dict.fromkeys((stem, stem.lower(), stem.upper(), stem.capitalize()))
    return [one + end for one in stems for end in dict.fromkeys((suffix, suffix.lower(), suffix.upper()))]


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        OSError: It does not exist, or is not a regular file.
        ValueError: The name is not a valid file name, or the file is larger than `LARGEST_FILE`.
    """
    # Opening a device may have effects, so the type is checked before; it may change, so it is checked again after.
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


def open_text(
    path: str | Path, *, encoding: str = "utf-8", errors: str | None = None, newline: str | None = None
) -> TextIO:
    """Open a text that the user names for reading: a regular file, or a pipe that another program fills.

    Args:
        path: The file.
        encoding: As for `open`, as are the others.
        errors: What becomes of bytes that are no text.
        newline: What ends lines.

    Raises:
        OSError: It does not exist, or is a folder, a socket or a device, which need not end.
        ValueError: The name is not a valid file name.
    """
    found = os.stat(path)  # noqa: PTH116 - as in `open_regular`
    if not stat.S_ISFIFO(found.st_mode):
        _check_kind(found, path)
    return Path(path).open(encoding=encoding, errors=errors, newline=newline)


def check_length(n_bytes: int) -> None:
    """Refuse a picture of too many bytes.

    Raises:
        ValueError: It has more than `LARGEST_FILE`.
    """
    if n_bytes > LARGEST_FILE:
        msg = f"it has {n_bytes:,} bytes, more than the {LARGEST_FILE:,} that a picture may have"
        raise ValueError(msg)


def _check(found: os.stat_result, path: str | Path) -> None:
    _check_kind(found, path)
    check_length(found.st_size)


def _check_kind(found: os.stat_result, path: str | Path) -> None:
    if stat.S_ISREG(found.st_mode):
        return
    kind = next((name for holds, name in _KINDS if holds(found.st_mode)), "no regular file")
    raise OSError(errno.EINVAL, f"it is {kind}; expected a file", str(path))
