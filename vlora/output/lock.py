"""One run a folder: a lock that the operating system takes back when a process ends, however it ends.

The library `filelock` (4.3.1 was tried) takes back the lock of a killed process too and follows no link. Around it
would have to be written most of what is here: its error names no holder, it leaves its file behind, it raises where a
file system has no locks, and where the system has none its marker outlives a killed process. Importing it takes a tenth
of a second.
"""

import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ..errors import RecipeError
from ..system.locks import is_at, lock
from ..system.private import open_itself

LOCK_NAME = ".running"


@contextlib.contextmanager
def exclusive_run_lock(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, which is made if need be and removed again if nothing came into it.

    The lock is on an open file and not the file itself: one that a killed process has left locks no run out. Where the
    system or the file system has no such locks, no run is kept out.

    Args:
        folder: Where the run writes.

    Raises:
        RecipeError: Another run, of this or another process, is writing there.
        OSError: The folder cannot be made, or not be written to.
    """
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _open_locked(folder / LOCK_NAME):
            try:
                yield
            finally:
                # While it is locked: a run that opened it before finds that it is gone, and makes another one.
                (folder / LOCK_NAME).unlink(missing_ok=True)
    finally:
        with contextlib.suppress(OSError):
            for parent in made:
                parent.rmdir()


def _open_locked(path: Path) -> IO[str]:
    while True:
        # To append: what the holder has written has to stay until the lock is had.
        file = os.fdopen(_open_itself(path), "a+", encoding="utf-8")
        try:
            _lock(file, path)
            if is_at(file, path):
                holder = json.dumps({"process": os.getpid(), "host": socket.gethostname()})
                # Only to be told to others: a full disk is reported when there is something to lose.
                with contextlib.suppress(OSError):
                    file.truncate(0)
                    os.write(file.fileno(), holder.encode())
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def _open_itself(path: Path) -> int:
    try:
        return open_itself(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        msg = f"output.path: {path} is a link, which no run has made; remove it"
        raise RecipeError(msg) from None


def _lock(file: IO[str], path: Path) -> None:
    if lock(file, waits=False) is False:
        msg = (
            f"output.path: another run{_describe_holder(file)} is writing to {path.parent.resolve()}; wait for its end "
            "or stop it, or give this run a folder of its own (--set output.path=...)"
        )
        raise RecipeError(msg)


def _describe_holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        found = json.load(file)
        process, host = found["process"], found["host"]
    except (ValueError, KeyError, TypeError):
        return ""
    if (process, host) == (os.getpid(), socket.gethostname()):
        return " of this same process, whose events were not taken to their end,"
    return f" (process {process} on {host})"
