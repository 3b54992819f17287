"""Files that a command's option names: what somebody else has put there is never written over."""

from collections.abc import Callable
from pathlib import Path

from ..errors import RecipeError
from ..system.files import expand
from .atomic import write_text
from .paths import METRICS_NAME, RUN_FILE_NAMES

MOST_READ = 1 << 20
"""Characters of a file that are looked at, to see whose it is."""


def open_named(name: str | Path, option: str, is_own: Callable[[str], bool]) -> Path:
    """Find the file that an option names, before anything is computed for it.

    Args:
        name: The file, as it was typed.
        option: The option, for the message.
        is_own: Whether the beginning of a file is that of one which the same command has written: it is written anew.

    Returns:
        The file; `write_named` writes it.

    Raises:
        RecipeError: It is a folder, somebody else's file or one of a run's own, or it cannot be made or read.
    """
    path = expand(name)
    problem = _find_problem(path, is_own)
    if problem is not None:
        msg = f"{option}: {str(name)!r} {problem}; give the name of a new file"
        raise RecipeError(msg)
    return path


def write_named(path: Path, text: str) -> None:
    """Write a file that `open_named` has found: whole or not at all; a pipe or a terminal is written to.

    Raises:
        OSError: It cannot be written.
    """
    if path.exists() and not path.is_file():
        # Renaming another file over it would take it away from everybody who uses it.
        path.write_text(text, encoding="utf-8")
    else:
        write_text(path, text)


def _find_problem(path: Path, is_own: Callable[[str], bool]) -> str | None:
    try:
        if path.is_dir():
            return "is a folder"
        if not path.exists():
            above = next(parent for parent in path.absolute().parents if parent.exists())
            return None if above.is_dir() else f"lies in {str(above)!r}, which is no folder"
        if not path.is_file():
            return None
        if path.name in RUN_FILE_NAMES and path.with_name(METRICS_NAME).is_file():
            return "belongs to a run and is not overwritten"
        with path.open(encoding="utf-8", errors="replace") as file:
            beginning = file.read(MOST_READ)
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    is_free = not beginning or is_own(beginning)
    return None if is_free else "is there, was not written by this command, and is not overwritten"
