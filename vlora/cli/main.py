"""`python -m vlora`: finds the command, parses its arguments, calls it, and prints an error as one sentence."""

import difflib
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecipeError
from ..recipe.schema import Recipe
from ..system import unforeseen
from .arguments import DEBUG, FOR_ALL, JSON, QUIET, UsageExit, read_recipe
from .failures import explain
from .status import DONE, UNREAD, USER_ERROR
from .streams import complain, discard, replace_unencodable, settle

if TYPE_CHECKING:
    from .screen import Screen

TRAIN = "train"
COMMANDS = {
    TRAIN: "fine-tune a model; `python -m vlora RECIPE` does the same",
    "init": "write a recipe for rows, or one that comes with vlora",
    "inspect": "show rows as the model will see them, or count all of them",
    "plan": "say what memory a recipe needs, before anything is loaded",
    "eval": "answer held-out rows with what was trained, and score the answers",
    "run": "ask what was trained, once or in a conversation",
    "fuse": "write an adapter and its base as one model",
    "export": "write an adapter as PEFT, vLLM or llama.cpp read it",
    "import": "write an adapter of PEFT or mlx-lm as vlora's own",
    "push": "upload what was trained to the Hugging Face hub",
    "compare": "put runs beside one another",
    "schema": "print a JSON Schema of recipes, for editors",
    "completion": "print what completes `vlora` in bash, zsh or fish",
    "doctor": "prove vlora on this machine, or that a model can be trained",
}
"""What each command does, in the order in which the help lists them."""

HELP, VERSION = ("-h", "--help"), "--version"

OVERVIEW_START = """usage: python -m vlora COMMAND [options]
       python -m vlora RECIPE [options]

commands:"""
OVERVIEW_END = """
  python -m vlora COMMAND --help  a command's options, with examples
  python -m vlora --help-all      those of training, and of mlx-vlm's lora.py
  python -m vlora --version       the versions of vlora and of what it runs on

begin with: python -m vlora init --recipe forkme my.toml"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: As typed after `python -m vlora`; None for those of this process.

    Returns:
        0 after success, 2 after an error that the user can mend, 1 after an unforeseen one, 130 after Ctrl-C.
    """
    typed = sys.argv[1:] if arguments is None else list(arguments)
    recipes: list[Recipe] = []
    screen: Screen | None = None
    try:
        replace_unencodable()
        if (text := _find_text(typed)) is not None:
            print(text, flush=True)
            return DONE
        carry_out = _prepare(typed, recipes)
        screen = _make_screen(typed)
        return carry_out(screen)
    except BrokenPipeError:
        discard(sys.stdout)
        return UNREAD
    except UsageExit as ended:
        # argparse has printed the message for people already.
        _tell_programs(ended.problem, USER_ERROR, screen, typed)
        raise
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last resort: the user reads a sentence
        problem, status = explain(error, typed, recipes[0] if recipes else None)
        details = unforeseen.show(error) if DEBUG in typed else ""
        complain(f"{details}{_break_lines(f'vlora: {problem}')}")
        settle(sys.stdout)
        _tell_programs(problem, status, screen, typed)
        return status


def _break_lines(sentence: str) -> str:
    """Wrap a sentence between words at the terminal's width."""
    if not sys.stderr.isatty():
        return sentence
    from rich.console import Console
    from rich.text import Text

    from .wrapping import wrap

    return wrap(Text(sentence), Console(stderr=True).width - 1).plain


def _make_screen(typed: Sequence[str]) -> "Screen":
    from .screen import Screen

    return Screen(highlight=False, mode="json" if JSON in typed else "quiet" if QUIET in typed else "all")


def _tell_programs(problem: str, status: int, screen: "Screen | None", typed: Sequence[str]) -> None:
    """With --json, print the error as an object, too."""
    if JSON in typed:
        screen = _make_screen(typed) if screen is None else screen
        screen.tell("Error", message=problem, status=status)


def _find_text(typed: list[str]) -> str | None:
    """Return the text to print if the arguments name no command; None otherwise."""
    if typed == [VERSION]:
        return _describe_versions()
    if typed and typed[0] in HELP:
        return _describe_commands()
    return None


def _describe_versions() -> str:
    from ..report.run.versions import find_versions

    found = find_versions()
    return "\n".join(f"{name} {version}" for name, version in found.items())


def _describe_commands() -> str:
    width = max(map(len, COMMANDS))
    lines = (f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
    return "\n".join([OVERVIEW_START, *lines, OVERVIEW_END])


def _refuse_misspelt(word: str) -> None:
    """Refuse a word that resembles a command and is not a file.

    Raises:
        RecipeError: Names the command that was probably meant.
    """
    near = difflib.get_close_matches(word, COMMANDS, n=1, cutoff=0.75)
    if near and not Path(word).exists():
        msg = f"found {word!r}, which is no command and no file; did you mean {near[0]!r}?"
        raise RecipeError(msg)


def _prepare(typed: list[str], recipes: list[Recipe]) -> "Callable[[Screen], int]":
    """Parse a command's arguments, append its recipe to `recipes` once it is read, and return the function to call."""
    # Options of all commands may come before the command's name.
    first = next((place for place, word in enumerate(typed) if word not in FOR_ALL), None)
    is_named = first is not None and typed[first] in COMMANDS
    if first is not None and not is_named:
        _refuse_misspelt(typed[first])
    command = typed[first] if first is not None and is_named else TRAIN
    words = [word for place, word in enumerate(typed) if not (is_named and place == first)]
    module: Any = importlib.import_module(f".{command}", __package__)
    parsed = module.make_parser().parse_intermixed_args(words)
    parsed.typed = typed
    if "recipes" in parsed:
        parsed.recipe = read_recipe(parsed)
        recipes.append(parsed.recipe)
    prepared: Callable[[Screen], int] = module.prepare(parsed)
    return prepared
