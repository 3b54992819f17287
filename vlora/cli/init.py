"""`python -m vlora init`: writes a recipe for given rows, or one of the packaged recipes."""

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
from ..recipe.suggest import DEFAULT_MODEL, OBJECTIVES, explain_columns, suggest_recipe
from ..system.nouns import with_noun
from ..system.redaction import redact
from .arguments import Parser, named, named_path, positive
from .arguments import make_parser as make_plain_parser
from .failures import naming_arguments
from .packaged_recipes import SUFFIX, list_recipes, read_packaged
from .status import DONE

if TYPE_CHECKING:
    from ..recipe.suggest import FitFacts, RowFacts
    from .screen import Screen

HUB_SLASHES = 1
"""Slashes in a model's hub id; a path with another number of them is a folder."""


def make_parser() -> Parser:
    """Make the parser of the command's arguments."""
    about = "Look at rows and write a recipe for them, or one that comes with vlora; without anything, list those."
    examples = (
        "init photos/ --model mlx-community/Qwen2-VL-2B-Instruct-bf16 # for a folder of images",
        "init rows.jsonl my.toml # for rows in a file",
        "init # list the recipes that come with vlora",
        "init --recipe forkme my.toml # every key explained, to change",
    )
    parser = make_plain_parser("init", about, examples)
    parser.add_argument("--recipe", type=named, metavar="NAME", default=None, help="a recipe that comes with vlora")
    parser.add_argument(
        "--model", type=named, metavar="MODEL", default=None, help=f"hub id or folder ({DEFAULT_MODEL})"
    )
    parser.add_argument("--memory-gb", type=positive(float), default=None, help="of the machine that is to train")
    parser.add_argument(
        "data", nargs="?", type=named, default=None, help="rows: a file, a folder or a hub id; not with --recipe"
    )
    parser.add_argument(
        "file", nargs="?", type=named_path, default=None, help="where to write it, a file or a folder (NAME.toml, here)"
    )
    return parser


def prepare(parsed: argparse.Namespace) -> "Callable[[Screen], int]":
    """Give what carries out the command."""
    if parsed.recipe is not None:
        if parsed.file is not None:
            msg = f"init: found two files, {parsed.data!r} and {str(parsed.file)!r}; --recipe writes one"
            raise RecipeError(msg)
        target = None if parsed.data is None else Path(parsed.data)
        return functools.partial(write_recipe, parsed.recipe, target)
    if parsed.data is None:
        return show_recipes
    wanted = Path(parsed.data).name.removesuffix(SUFFIX)
    if not Path(parsed.data).expanduser().exists() and (parsed.data.endswith(SUFFIX) or wanted in list_recipes()):
        name = wanted if wanted in list_recipes() else "NAME"
        msg = f"init: found {parsed.data!r} without --recipe; add --recipe {name} (`init` alone lists the names)"
        raise RecipeError(msg)
    return functools.partial(suggest, parsed.data, parsed.model, parsed.file, parsed.memory_gb)


def suggest(data: str, model: str | None, target: Path | None, memory_gb: float | None, console: "Screen") -> int:
    """Look at rows, and write a recipe for them to a new file.

    Args:
        data: The rows, as `data.path` takes them.
        model: The model, as `model.path` takes it; None for the default one.
        target: As for `write_recipe`.
        memory_gb: As for `look_at_fit`.
        console: Where to show it.

    Raises:
        RecipeError: The rows cannot be read, or the file is there already or cannot be written.
    """
    from ..report.facts import look_at_fit, look_at_rows

    stem = re.sub(r"[^\w.-]+", "-", Path(data).stem).strip("-.") or "recipe"
    file = Path(f"{stem}{SUFFIX}") if target is None else target / f"{stem}{SUFFIX}" if target.is_dir() else target
    refuse_existing(file, "init DATA FILE")
    with naming_arguments({"data.path": "data"}):
        rows = look_at_rows(data)
    chosen, output = model or DEFAULT_MODEL, f"runs/{file.stem}"
    fit = look_at_fit(rows, chosen, output, memory_gb)
    if not isinstance(fit, str):
        # What only the model says: a text that is too long, or that has one of its tokens.
        rows = rows.with_bad(fit.bad)
    write_new_file(file, suggest_recipe(rows, chosen, fit, output), "init DATA FILE")
    console.tell("WrittenRecipe", file=file, rows=rows, fit=fit)
    with console.result():
        for line in _describe(rows, fit, file):
            console.print(redact(line), markup=False, soft_wrap=True)
    return DONE


def _describe(rows: "RowFacts", fit: "FitFacts | str", file: Path) -> Iterator[str]:
    yield f"written to {file}, for {with_noun(rows.n_rows, 'row')} of {rows.path}"
    if rows.columns:
        yield "guessed of the columns (data.columns):"
        yield from (f"  {line}" for line in explain_columns(rows))
    if rows.image_root is not None:
        yield f"the images are in {rows.image_root} (data.image_root)"
    if rows.unused:
        yield f"columns that are not used: {', '.join(rows.unused)}"
    if rows.question is not None:
        yield f"the rows have no question; each is asked: {rows.question!r}"
    if rows.objective != "sft":
        yield f'{OBJECTIVES[rows.objective]}: train.objective = "{rows.objective}"'
    if rows.bad:
        what = 'which the recipe leaves out (data.on_bad_row = "skip")' if rows.skips_bad else "which ends a run"
        yield f"{rows.describe_bad()}, {what}: {rows.bad[0]}"
        if not rows.skips_bad:
            yield 'mend them, or leave them out with data.on_bad_row = "skip"'
    if isinstance(fit, str):
        yield f"how many rows fit at once is not known: {fit}"
    else:
        yield (
            f"{with_noun(fit.batch_size, 'row')} of up to {with_noun(fit.n_tokens, 'token')} at once "
            f"need{'s' * (fit.batch_size == 1)} {fit.peak_gb:.1f} of "
            f"{fit.memory_gb:.1f} GB by the plan{'' if fit.fits else ', and do not fit: take a smaller model'}"
        )
    typed = shlex.quote(str(file))
    yield from ("then:", f"  python -m vlora inspect {typed}", f"  python -m vlora {typed}")


def refuse_existing(file: Path, otherwise: str) -> None:
    """Refuse a file that exists, before any row is read.

    Raises:
        RecipeError: The file exists.
    """
    if file.exists():
        msg = f"{file}: is there already and is not overwritten; give another name: {otherwise}"
        raise RecipeError(msg)


def write_new_file(file: Path, text: str, otherwise: str) -> None:
    """Write a file that does not exist yet.

    Raises:
        RecipeError: The file exists or cannot be written; the message ends with `otherwise`.
    """
    try:
        with file.open("x", encoding="utf-8") as written:
            written.write(text)
    except FileExistsError:
        msg = f"{file}: is there already and is not overwritten; give another name: {otherwise}"
        raise RecipeError(msg) from None
    except OSError as error:
        msg = f"{file}: cannot be written ({error.strerror}); give another name: {otherwise}"
        raise RecipeError(msg) from None


def show_recipes(console: "Screen") -> int:
    """List the packaged recipes with their purposes."""
    recipes = list_recipes()
    width = max(map(len, recipes))
    for name, purpose in recipes.items():
        console.tell("PackagedRecipe", name=name, purpose=purpose)
        with console.result():
            console.print(f"{name:<{width}}  {purpose}", markup=False, soft_wrap=True)
    console.print("write one with:\n  python -m vlora init --recipe NAME my.toml", markup=False)
    return DONE


def write_recipe(name: str, target: Path | None, console: "Screen") -> int:
    """Write a packaged recipe to a new file, and list the keys that have to be changed.

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
    # Commands in the recipe's comments shall name the new file.
    text = re.sub(rf"(python -m vlora (?:\w+ )?)recipes/{stem}\.toml", lambda found: f"{found[1]}{typed}", text)
    write_new_file(file, text, f"init --recipe {stem} FILE")
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
    """Name the paths of a recipe that do not exist: placeholders, and results of other recipes."""
    from ..data.recipe_rows import check_rows

    for key, value in (("path", recipe.model.path), ("adapter_path", recipe.model.adapter_path)):
        is_local = value is not None and (key == "adapter_path" or value.count("/") > HUB_SLASHES)
        if value is not None and is_local and not Path(value).expanduser().exists():
            yield f"model.{key}: there is no {value!r} yet"
    try:
        check_rows(recipe.data)
    except RecipeError as error:
        yield str(error)
