"""The recipes that come with vlora, in a checkout and in an installed package."""

import difflib

from ..errors import RecipeError
from ..system.package import ROOT

FOLDER = ROOT / "recipes"
"""In a checkout a link to the folder beside the package; building a package copies the files."""
SUFFIX = ".toml"


def list_recipes() -> dict[str, str]:
    """Return the packaged recipes: name to the first sentence of the recipe's first comment."""
    files = sorted(FOLDER.glob(f"*{SUFFIX}"))
    return {file.stem: file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for file in files}


def read_packaged(name: str) -> str:
    """Read a recipe's text.

    Args:
        name: Its file's name, with or without the suffix.

    Raises:
        RecipeError: There is no such recipe.
    """
    names, wanted = list(list_recipes()), name.removesuffix(SUFFIX)
    if wanted not in names:
        close = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
        msg = f"--recipe: found {name!r}, which does not come with vlora; {hint}"
        raise RecipeError(msg)
    return (FOLDER / f"{wanted}{SUFFIX}").read_text(encoding="utf-8")
