"""Reads JSON files of models, and reports errors in one sentence before anything else uses the files."""

import codecs
import json
import stat
from pathlib import Path
from typing import Any

from ...errors import VloraError
from .schemas import SCHEMAS, find_problems

LARGEST = 1 << 28
"""Largest JSON file in bytes."""

NAMED = 3
"""Most problems of a file that are reported at once."""


class _UnfitError(ValueError):
    """A fault of a file; the message follows the file's name."""


def read_object(path: Path, error: type[VloraError], key: str | None = None) -> dict[str, Any]:
    """Read a JSON object; if the file's name is known, its values are checked, too.

    Args:
        path: The file.
        error: The class of the error to raise.
        key: The recipe's key, or the argument, that led there; None if the file's name says enough.

    Raises:
        VloraError: It cannot be read, is not a JSON object, or has invalid values.
    """
    try:
        found = _parse(path)
    except (OSError, ValueError, RecursionError) as problem:
        reason = _explain(problem)
        msg = f"{path} {reason}; give one that was written whole"
        raise error(msg, key=key) from None
    schema = SCHEMAS.get(path.name)
    if schema is not None and (problems := find_problems(found, schema)):
        more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        msg = f"{path}: {'; '.join(problems[:NAMED])}{more}"
        raise error(msg, key=key)
    return found


def _parse(path: Path) -> dict[str, Any]:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        # Reading a pipe would block.
        msg = "is no regular file"
        raise _UnfitError(msg)
    if status.st_size > LARGEST:
        msg = f"has {status.st_size:,} bytes, and is no file of settings"
        raise _UnfitError(msg)
    data = path.read_bytes()
    if data.startswith(b"version https://git-lfs"):
        msg = "is a pointer of Git LFS and not the file (git lfs pull fetches it)"
        raise _UnfitError(msg)
    if data.startswith(codecs.BOM_UTF8):
        msg = "begins with a byte order mark, which the libraries that read it do not take"
        raise _UnfitError(msg)
    found = json.loads(data.decode("utf-8"))
    if not isinstance(found, dict):
        msg = "is JSON, but no object"
        raise _UnfitError(msg)
    return found


def _explain(problem: Exception) -> str:
    if isinstance(problem, _UnfitError):
        return str(problem)
    if isinstance(problem, OSError):
        return f"cannot be read ({problem.strerror})"
    if isinstance(problem, RecursionError):
        return "is nested too deeply"
    if isinstance(problem, UnicodeDecodeError):
        return f"is not UTF-8 (byte {problem.start})"
    if isinstance(problem, json.JSONDecodeError):
        return f"is not JSON ({problem})"
    # Python's message about a number with thousands of digits says how to allow it.
    return "is not JSON (a huge number)"
