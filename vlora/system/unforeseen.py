"""Errors that were not foreseen: the traceback goes into a file, and the user is told in one sentence. Prints nothing.

Every error that a user can mend is a `VloraError`. Any other is a fault of vlora, or of a library that it calls.
Programs that call vlora get it as it was raised.
"""

import contextlib
import importlib.metadata
import os
import platform
import shlex
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from .package import ROOT
from .redaction import redact

FILE_NAME = "vlora-error"
LIBRARIES = ("vlora", "mlx", "mlx-vlm", "transformers", "tokenizers", "datasets", "pillow", "numpy")
LONGEST = 300
"""Characters of the error's message that the sentence repeats."""


def report(error: BaseException, arguments: Sequence[str], folder: Path | None) -> str:
    """Write the traceback of an error into a new file, and describe the error in one sentence.

    Args:
        error: What was raised.
        arguments: The command line.
        folder: The folder for the file; a temporary one if it does not exist.

    Returns:
        The sentence: the error, where it was raised, and where its traceback is.
    """
    text = redact("".join(_tell_all(error, arguments)))
    file = _write(text, folder)
    kept = "could not be written to a file, --debug shows it" if file is None else f"is in {file}, --debug shows it"
    return f"{describe(error)}; this should not happen: please report it, the traceback {kept}"


def describe(error: BaseException) -> str:
    """Say on one line what was raised, and at which line of vlora's own code."""
    words = " ".join(redact(str(error)).split())
    if len(words) > LONGEST:
        words = f"{words[:LONGEST]}..."
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    inside = [frame for frame in frames if ROOT in Path(frame.f_code.co_filename).parents]
    where = "" if not inside else f" at vlora/{_spot(inside[-1].f_code.co_filename)}:{inside[-1].f_lineno}"
    return f"unforeseen {type(error).__name__}{where}{f' ({words})' if words else ''}"


def show(error: BaseException) -> str:
    """Give an error's traceback as Python would print it."""
    return redact("".join(traceback.format_exception(error)))


def _spot(file: str) -> str:
    return Path(file).relative_to(ROOT).as_posix()


def _tell_all(error: BaseException, arguments: Sequence[str]) -> Iterator[str]:
    yield f"python -m vlora {shlex.join(arguments)}\n"
    yield f"Python {platform.python_version()}, {platform.platform()}\n"
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield f"{name} {importlib.metadata.version(name)}\n"
    yield "\n"
    yield from traceback.format_exception(error)


def _write(text: str, folder: Path | None) -> Path | None:
    """Write a new file; None if none can be written anywhere."""
    data = text.encode("utf-8", errors="backslashreplace")
    with contextlib.suppress(OSError, ValueError):
        if folder is not None and folder.is_dir():
            return _write_new(folder, data)
    with contextlib.suppress(OSError):
        number, name = tempfile.mkstemp(prefix=f"{FILE_NAME}-", suffix=".txt")
        with os.fdopen(number, "wb") as file:
            file.write(data)
        return Path(name)
    return None


def _write_new(folder: Path, data: bytes) -> Path:
    count = 1
    while True:
        path = folder / (f"{FILE_NAME}.txt" if count == 1 else f"{FILE_NAME}-{count}.txt")
        try:
            # No existing file is overwritten, a link included.
            with path.open("xb") as file:
                file.write(data)
        except FileExistsError:
            count += 1
        else:
            return path
