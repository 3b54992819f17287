"""Locks of the operating system on open files: each ends with the process that holds it, however that ends."""

import os
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]


def lock(file: IO[Any], *, waits: bool) -> bool | None:
    """Lock an open file until it is closed.

    Args:
        file: The file.
        waits: Whether to wait as long as another open file has the lock.

    Returns:
        Whether the lock was had; None where the system or the file system has no locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # A file system without locks.
        return None
    return True


def is_at(file: IO[Any], path: Path) -> bool:
    """Whether an open file is still the one at its path: another process may have deleted it before it was locked."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
