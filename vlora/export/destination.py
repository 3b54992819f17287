"""The folder that a command writes: one that is not there yet, or an empty one."""

from pathlib import Path

from ..errors import RecipeError


def find_destination(out: Path | None, beside: Path) -> Path:
    """Return the folder to be written.

    Args:
        out: What --out names.
        beside: The folder without it.

    Raises:
        RecipeError: Something is there, or the path can be no folder's.
    """
    folder = beside if out is None else out
    try:
        is_taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        msg = f"--out: {folder} cannot be read or written ({error.strerror}); give another folder"
        raise RecipeError(msg) from None
    if is_taken:
        msg = f"--out: {folder} is there already; give another folder, or remove it"
        raise RecipeError(msg)
    return folder
