"""`python -m vlora init`: lists the recipes that come with vlora, and writes one of them to a file of the user's."""

import argparse
import functools
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RecipeError
from ..recipe.parse import parse_recipe
from ..recipe.schema import Recipe
from ..system.redaction import redact
from .arguments import Parser
from .arguments import make_parser as make_plain_parser
from .packaged_recipes import SUFFIX, list_recipes, read_packaged
from .status import DONE

if TYPE_CHECKING:
    from .screen import Screen

HUB_SLASHES = 1
"""Of a model's name on the hub; a path of another depth is a folder."""


def make_parser() -> Parser:
    """Make the parser of the command's arguments."""
    about = "Write a recipe that comes with vlora to a file; without --recipe, list them."
    examples = ("init # list the recipes", "init --recipe forkme my.toml # every key explained, to change")
    parser = make_plain_parser("init", about, examples)
    parser.add_argument("--recipe", metavar="NAME", default=None, help="which one")
    parser.add_argument(
        "file", nargs="?", type=Path, default=None, help="where to write it, a file or a folder (NAME.toml, here)"
    )
    return parser


def prepare(parsed: argparse.Namespace) -> "Callable[[Screen], int]":
    """Give what carries out the command."""
    if parsed.recipe is not None:
        return functools.partial(write_recipe, parsed.recipe, parsed.file)
    if parsed.file is not None:
        wanted = parsed.file.name.removesuffix(SUFFIX)
        name = wanted if wanted in list_recipes() else "NAME"
        msg = f"init: found {str(parsed.file)!r} without --recipe; add --recipe {name} (`init` alone lists the names)"
        raise RecipeError(msg)
    return show_recipes


def show_recipes(console: "Screen") -> int:
    """List the recipes, each with what it is for."""
    recipes = list_recipes()
    width = max(map(len, recipes))
    for name, purpose in recipes.items():
        console.tell("PackagedRecipe", name=name, purpose=purpose)
        with console.result():
            console.print(f"{name:<{width}}  {purpose}", markup=False, soft_wrap=True)
    console.print("write one with:\n  python -m vlora init --recipe NAME my.toml", markup=False)
    return DONE


def write_recipe(name: str, target: Path | None, console: "Screen") -> int:
    """Write a recipe to a new file, and show what has to be changed in it.

    Args:
        name: The recipe's.
        target: The new file, or the folder that gets it; None for the current one.
        console: Where to show it.

    Raises:
        RecipeError: There is no such recipe, or the file is there already or cannot be written.
    """
    text = read_packaged(name)
    stem = name.removesuffix(SUFFIX)
    file = Path(f"{stem}{SUFFIX}") if target is None else target / f"{stem}{SUFFIX}" if target.is_dir() else target
    typed = shlex.quote(str(file))
    # The commands in its comments name the file that they are written to.
    text = re.sub(rf"(python -m vlora (?:\w+ )?)recipes/{stem}\.toml", lambda found: f"{found[1]}{typed}", text)
    try:
        with file.open("x", encoding="utf-8") as written:
            written.write(text)
    except FileExistsError:
        msg = f"{file}: is there already and is not overwritten; give another name: init --recipe {stem} FILE"
        raise RecipeError(msg) from None
    except OSError as error:
        msg = f"{file}: cannot be written ({error.strerror}); give another name: init --recipe {stem} FILE"
        raise RecipeError(msg) from None
    lines = [f"written to {file}: {list_recipes()[stem]}"]
    console.tell("WrittenRecipe", file=file, missing=(missing := list(_find_missing(parse_recipe(text)))))
    if missing:
        lines += ["change in it:", *(f"  {problem}" for problem in missing)]
    lines += ["then:", f"  python -m vlora inspect {typed}", f"  python -m vlora {typed}"]
    with console.result():
        for line in lines:
            console.print(redact(line), markup=False, soft_wrap=True)
    return DONE


def _find_missing(recipe: Recipe) -> Iterator[str]:
    """Name the files and folders of a recipe that are not there: placeholders, and what other recipes have to make."""
    from ..data.opening import check_paths

    for key, value in (("path", recipe.model.path), ("adapter_path", recipe.model.adapter_path)):
        is_local = value is not None and (key == "adapter_path" or value.count("/") > HUB_SLASHES)
        if value is not None and is_local and not Path(value).expanduser().exists():
            yield f"model.{key}: there is no {value!r} yet"
    try:
        check_paths(recipe.data)
    except RecipeError as error:
        yield str(error)
