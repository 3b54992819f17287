"""The sentence and the exit status that a command ends with after an error."""

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import OutOfMemoryError, VloraError
from ..recipe.schema import Recipe
from ..system import unforeseen
from ..system.redaction import redact
from .status import INTERRUPTED, UNFORESEEN, USER_ERROR

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def naming_arguments(arguments: Mapping[str, str]) -> Iterator[None]:
    """Let errors begin with a command's arguments where they are about keys of a recipe, which the command has not.

    Args:
        arguments: The arguments, by the keys.

    Raises:
        VloraError: As it was raised, under that name.
    """
    try:
        yield
    except VloraError as error:
        error.rename(arguments)
        raise


def name_base(adapter: str, base: str | None) -> str:
    """Say where an adapter's base is named: by the argument, or, where that is not given, by the adapter itself."""
    return "--base" if base is not None else f"the base that {adapter} names (--base gives another place)"


def explain(error: BaseException, typed: Sequence[str], recipe: Recipe | None) -> tuple[str, int]:
    """Return the sentence that describes an error, notes included, and the exit status.

    Args:
        error: What was raised.
        typed: The command's arguments.
        recipe: The command's recipe, if it was read: the traceback of an unforeseen error goes into its folder.
    """
    problem, status = _find_words(error, typed, recipe)
    return "; ".join([problem, *getattr(error, "__notes__", ())]), status


def _find_words(error: BaseException, typed: Sequence[str], recipe: Recipe | None) -> tuple[str, int]:
    if isinstance(error, VloraError):
        return str(error), USER_ERROR
    if isinstance(error, KeyboardInterrupt):
        return "ended by SIGINT", INTERRUPTED
    if isinstance(error, MemoryError):
        found = str(error) or "Python could not get it"
        return str(OutOfMemoryError("this command", found, is_host=True)), USER_ERROR
    if isinstance(error, OSError) and error.filename is not None:
        problem = f"{error.filename}: cannot be read or written ({error.strerror})"
        return redact(f"{problem}; see --out or output.path, or the path in the recipe that leads there"), USER_ERROR
    if isinstance(error, OSError) and error.errno in FULL:
        return f"there is no room left to write to ({error.strerror})", USER_ERROR
    return unforeseen.report(error, typed, _find_output(recipe)), UNFORESEEN


def _find_output(recipe: Recipe | None) -> Path | None:
    """Return the folder that a run writes to; None without a recipe, or if its path cannot be a folder's."""
    from ..output.paths import output_paths

    try:
        return None if recipe is None else output_paths(recipe).folder
    except (OSError, ValueError, RuntimeError):
        return None
