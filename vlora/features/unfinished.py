"""Unfinished shards: the process that writes one holds a lock on it, which ends with the process, however that ends.

So a shard that no process has locked is of a run that was killed. It is deleted at once: it counts with all of its
bytes, and a run writes several at a time.
"""

import contextlib
import os
import time
from pathlib import Path
from typing import BinaryIO

from ..system.locks import is_at, lock
from ..system.private import open_itself, why_foreign

ABANDONED_S = 24 * 3600.0
"""Where the system or the file system has no locks: unfinished shards older than this are of a run that ended early."""


def create_locked(path: Path) -> BinaryIO:
    """Create a file that only its user can read, and hold its lock until it is closed.

    Raises:
        OSError: It cannot be created, or exists.
    """
    while True:
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        try:
            # Another process may have held it for a moment, just created, and have taken it for an abandoned one.
            if lock(file, waits=True) is None or is_at(file, path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def publish(file: BinaryIO, path: Path, finished: Path) -> Path:
    """Give a written file its name, while it is locked: no process finds it unfinished and unlocked."""
    file.flush()
    if os.name == "nt":
        # Windows renames no open file.
        file.close()
    return path.replace(finished)


def remove_abandoned(path: Path) -> None:
    """Delete an unfinished file of one's own that no living process writes; any other one is left alone."""
    # Opening a pipe would block.
    flags = os.O_RDWR | getattr(os, "O_NONBLOCK", 0)
    with contextlib.suppress(OSError), os.fdopen(open_itself(path, flags), "r+b", buffering=0) as file:
        found = os.fstat(file.fileno())
        if why_foreign(found) is not None:
            return
        is_abandoned = lock(file, waits=False)
        if is_abandoned is None:
            is_abandoned = time.time() - found.st_mtime > ABANDONED_S
        if is_abandoned:
            # One that was finished meanwhile has another name.
            path.unlink()
