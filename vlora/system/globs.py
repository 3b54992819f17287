"""Paths that name several files: "data/*.parquet", "rows-??.jsonl", "data/**/*.json"."""

import glob
from pathlib import Path

from .files import expand

_MAGIC = "*?["


def is_pattern(path: str) -> bool:
    """Whether a path is a pattern of several files of this machine: it has a wildcard, and is no file's own name."""
    if not any(sign in path for sign in _MAGIC):
        return False
    try:
        return not expand(path).exists()
    except (OSError, ValueError):
        return True


def list_files(path: str) -> list[str]:
    """Give the files that a path names: those of a pattern, none if nothing matches it; other paths as they are."""
    try:
        return find_files(path) if is_pattern(path) else [path]
    except ValueError:
        return []


def find_files(path: str) -> list[str]:
    """Find the files of a pattern, in the order of their paths; hidden ones are left out.

    Raises:
        ValueError: There is none.
    """
    # `Path.glob` takes no pattern of an absolute path.
    names = glob.glob(str(expand(path)), recursive=True)  # noqa: PTH207
    found = [name for name in names if Path(name).is_file()]
    if not found:
        msg = "no file matches it"
        raise ValueError(msg)
    return sorted(found)
