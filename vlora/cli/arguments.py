"""The arguments that commands share: their parsers, and the recipe that they name."""

import argparse
import difflib
import math
import os
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..errors import RecipeError
from ..recipe.legacy import OPTIONS, overrides_from
from ..recipe.parse import all_keys, parse_override, parse_recipe
from ..recipe.schema import Recipe
from ..recipe.synonyms import explain_name, find_key
from ..system.files import expand, open_text, read_regular
from ..system.redaction import redact
from .packaged_recipes import list_recipes
from .status import USER_ERROR

DEBUG, JSON, QUIET = "--debug", "--json", "--quiet"
FOR_ALL = (DEBUG, JSON, QUIET)
"""Options of every command; they may also come before the command's name."""

WIDTH = 79
"""Width, in columns, of those lines of a help text that argparse does not wrap."""

EXAMPLES = "examples:"

NEAR = 0.75
"""Likeness, from 0 to 1, from which on an option may have been meant."""

UNRECOGNIZED = "unrecognized arguments: "
"""Beginning of argparse's message about an unknown option."""


class UsageExit(SystemExit):
    """Exit of a command whose arguments are wrong.

    Attributes:
        problem: What is wrong, as it was printed.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(USER_ERROR)
        self.problem = problem


class Parser(argparse.ArgumentParser):
    """A parser whose errors point to the list of options and shorten long values."""

    def error(self, message: str) -> NoReturn:
        """Print the error with a hint at the option that was probably meant, and exit."""
        meant = self._find_meant(message.removeprefix(UNRECOGNIZED)) if message.startswith(UNRECOGNIZED) else None
        problem = f"{redact(message)}; {'--help lists the options' if meant is None else meant}"
        try:
            super().error(problem)
        except SystemExit:
            raise UsageExit(problem) from None

    def _find_meant(self, unrecognized: str) -> str | None:
        """Name the known option nearest to the first one that is not recognized."""
        typed = next((word for word in unrecognized.split() if word.startswith("--")), "").partition("=")[0]
        # Keys of recipes mean nothing to a command that takes none.
        hint = _find_key(typed.removeprefix("--")) if "--set" in self._option_string_actions else None
        if hint is None and (near := difflib.get_close_matches(typed, self._option_string_actions, 1, NEAR)):
            hint = f"did you mean {near[0]}?"
        return hint

    def describe_options(self) -> dict[str, str]:
        """Return the options that `--help` lists, each with its description."""
        shown = [action for action in self._actions if action.help not in (None, argparse.SUPPRESS)]
        return {flag: str(action.help) for action in shown for flag in action.option_strings}


def _find_key(name: str) -> str | None:
    """Name the option that sets the recipe's key of a name, or of a name that means the same."""
    keys = all_keys()
    flags = {option.key: option.flag for option in OPTIONS}
    # Few names are those of keys in two sections; nothing says which is meant then.
    own = [key for key in keys if name in (key, key.rpartition(".")[2])]
    key = own[0] if len(own) == 1 else find_key(name, keys)
    if key is not None:
        return f"did you mean {flags.get(key, f'--set {key}=VALUE')}?"
    return explain_name(name)


class _HelpAll(argparse.Action):
    """Shows the help with the options that `--help` leaves out."""

    def __init__(self, option_strings: Sequence[str], dest: str, **settings: Any) -> None:
        left_out: dict[argparse.Action, str] = settings.pop("left_out")
        super().__init__(option_strings, dest, nargs=0, **settings)
        self.left_out = left_out

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        for action, text in self.left_out.items():
            action.help = text
        parser.print_help()
        parser.exit()


def make_parser(command: str, about: str, examples: Sequence[str] = (), **settings: Any) -> Parser:
    """Make the parser of a command that takes no recipe.

    Args:
        command: As it is typed after `python -m vlora`.
        about: What it does.
        examples: Commands to copy, each with what it does behind ` # `; without `python -m vlora`.
        settings: Further ones of `argparse.ArgumentParser`.
    """
    parser = Parser(
        prog=f"python -m vlora {command}",
        description=textwrap.fill(about, WIDTH),
        epilog="\n".join([EXAMPLES, *_align(examples)]) if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
        **settings,
    )
    shared = parser.add_argument_group("options of all commands")
    shared.add_argument("-h", "--help", action="help", default=argparse.SUPPRESS, help="show this help")
    shared.add_argument(QUIET, action="store_true", default=False, help="print errors and the last result only")
    shared.add_argument(JSON, action="store_true", default=False, help="print one JSON object a line instead")
    shared.add_argument(DEBUG, action="store_true", default=False, help="show the traceback of what goes wrong")
    return parser


def make_recipe_parser(
    command: str, about: str, examples: Sequence[str] = (), usage: str = "", **further: Any
) -> Parser:
    """Make the parser of a command that takes a recipe, with the options that change it.

    Args:
        command: As for `make_parser`.
        about: As for `make_parser`.
        examples: As for `make_parser`.
        usage: How it is typed, where that is not as for most commands.
        further: As for `make_parser`.
    """
    usage = usage or f"python -m vlora {command} [options] [recipe]"
    parser = make_parser(command, about, examples, usage=usage, argument_default=argparse.SUPPRESS, **further)
    parser.add_argument(
        "recipes",
        nargs="*",
        type=named,
        default=[],
        metavar="recipe",
        help="a TOML file; `python -m vlora init --recipe forkme` writes one that explains every key",
    )
    parser.add_argument(
        "--set",
        dest="sets",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override a key",
    )
    left_out: dict[argparse.Action, str] = {}
    parser.add_argument(
        "--help-all",
        action=_HelpAll,
        left_out=left_out,
        help="show this help with the options of mlx-vlm's lora.py, which work alone or on top of a recipe",
    )
    older = parser.add_argument_group("options of mlx-vlm's lora.py, alone or on top of a recipe")
    for option in OPTIONS:
        settings: dict[str, Any] = {"type": option.kind}
        if option.kind == "flag":
            settings = {"action": "store_true"}
        elif option.kind == "pair":
            settings = {"nargs": 2, "type": int, "metavar": ("H", "W")}
        # Listed in `--help`, they would hide the options of the command.
        left_out[older.add_argument(option.flag, help=argparse.SUPPRESS, **settings)] = option.text
    return parser


def _align(examples: Sequence[str]) -> list[str]:
    """List example commands, each with its description behind it, or above it if one line is too short for both."""
    lines = []
    for example in examples:
        typed, _, what = example.partition(" # ")
        command = f"  python -m vlora {typed}"
        line = f"{command:<49}  # {what}" if what else command
        lines += [line] if len(line) <= WIDTH else [f"  # {what}", command]
    return lines


def positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    """Return an argparse type for finite numbers greater than 0."""

    def parse(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            msg = f"found {text}, must be greater than 0"
            raise argparse.ArgumentTypeError(msg)
        return value

    # argparse uses this name in its message about a text that is not a number.
    parse.__name__ = kind.__name__
    return parse


def named(text: str) -> str:
    """Read the name of a file, a folder, a model or a repository: an argparse type for texts that say something."""
    if not text.strip():
        msg = "found an empty name"
        raise argparse.ArgumentTypeError(msg)
    return text


def named_path(text: str) -> Path:
    """Read the path of a file or folder as `named` does: an empty one would be the current folder."""
    return Path(named(text))


def _refuse_rows(path: Path) -> None:
    """Refuse rows in a recipe's place, and say which command makes a recipe of them."""
    if path.suffix == ".toml" or not path.exists():
        return
    from ..data.readers.sources import FILE_SUFFIXES

    if path.is_dir() or path.suffix.lower() in FILE_SUFFIXES:
        kind = "a folder" if path.is_dir() else "a file of rows"
        own = path / "recipe.toml"
        remedy = f"give {own}" if own.is_file() else f"`python -m vlora init {path}` writes one for rows"
        msg = f"{path}: found {kind}, expected a recipe; {remedy}"
        raise RecipeError(msg)


def read_recipe(parsed: argparse.Namespace) -> Recipe:
    """Read the recipe that the arguments name, changed by `--set` and the older script's options.

    Raises:
        RecipeError: No recipe is given, it cannot be read, or a value in it or in the options is wrong.
    """
    names = {option.name for option in OPTIONS}
    overrides = overrides_from({name: value for name, value in vars(parsed).items() if name in names})
    for assignment in parsed.sets:
        key, found, value = assignment.partition("=")
        if not found:
            msg = f"--set: found {assignment!r}, expected section.key=value"
            raise RecipeError(msg)
        overrides[key.strip()] = parse_override(key.strip(), value.strip())
    if len(parsed.recipes) > 1:
        msg = f"found {len(parsed.recipes)} recipes, {', '.join(parsed.recipes)}; give one, --set changes its keys"
        raise RecipeError(msg)
    if not parsed.recipes:
        if not overrides:
            msg = "give a recipe (`python -m vlora init` lists some), or at least --dataset; --help lists the options"
            raise RecipeError(msg)
        return parse_recipe("", overrides)
    path = Path(parsed.recipes[0])
    _refuse_rows(path)
    try:
        with open_text(path, encoding="utf-8-sig") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        known = path.stem in list_recipes()
        hint = f"init --recipe {path.stem}` writes it" if known else "init` lists those that come with vlora"
        found = getattr(error, "strerror", None) or error
        msg = f"{path}: cannot read the recipe ({found}); `python -m vlora {hint}"
        raise RecipeError(msg) from None
    bases: list[str] = []

    def read_base(name: str, wanted: str) -> tuple[str, str]:
        base, base_text = _read_base(name, wanted)
        bases.append(base)
        return base, base_text

    try:
        return parse_recipe(text, overrides, name=os.path.relpath(path.resolve()), read_base=read_base)
    except RecipeError as error:
        where = f"{path}, which extends {', '.join(bases)}:" if bases else f"{path}:"
        msg = "\n  ".join([where, *str(error).splitlines()])
        raise RecipeError(msg) from None


def _read_base(name: str, wanted: str) -> tuple[str, str]:
    """Read the recipe that another one extends, from beside it."""
    path = Path(name).parent / expand(wanted)
    try:
        # The same file gets the same name, by whichever path it is reached.
        path = Path(os.path.relpath(path.resolve()))
        return str(path), read_regular(path).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or error
        msg = f"extends: found {wanted!r}, and {path} cannot be read ({found}); name a recipe, from beside {name}"
        raise RecipeError(msg) from None
