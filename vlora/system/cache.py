"""vlora's folder in the user's cache directory. Every file in it can be made again."""

import contextlib
import os
import tempfile
from pathlib import Path

KERNELS_VARIABLE = "VLORA_KERNELS"
"""Environment variable: a folder for compiled kernels instead of the one in the user's cache directory."""


def cache_folder() -> Path:
    """Name vlora's folder in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vlora"


def kernels_root() -> Path:
    """Name the folder that compiled kernels are kept in."""
    chosen = os.environ.get(KERNELS_VARIABLE)
    return Path(chosen) if chosen else cache_folder() / "kernels"


def write_whole(path: Path, content: bytes) -> bool:
    """Write a file as a whole or not at all, even while other processes write it.

    Args:
        path: The file, in a folder that exists.
        content: Its new content.

    Returns:
        Whether it was written. A cache that cannot be written only makes the next start slower.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    except OSError:
        return False
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        return False
    return True


def write_new(path: Path, content: bytes) -> None:
    """Write a file that only its user can read, unless it exists; of several concurrent writers one succeeds.

    Args:
        path: The file, in a folder that exists.
        content: Its content.

    Raises:
        OSError: It could not be written.
    """
    if os.path.lexists(path):
        return
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        try:
            # A hard link fails if the name is taken; renaming would replace the other file.
            os.link(name, path)
        except FileExistsError:
            return
        except OSError:
            # A file system without links.
            Path(name).rename(path)
    finally:
        Path(name).unlink(missing_ok=True)
