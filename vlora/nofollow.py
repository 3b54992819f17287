"""Files opened where they are: what somebody has put a link to is not written through it."""

import os
from pathlib import Path


def open_itself(path: Path, flags: int) -> int:
    """Open a file that is not a symbolic link; the folders on the way to it may be links.

    Args:
        path: The file.
        flags: As for `os.open`.

    Raises:
        OSError: It cannot be opened; `errno.ELOOP` for a link.
    """
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o666)
