"""`python -m vlora`: finds the command, parses its arguments, calls it, and prints an error as one sentence."""

import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..recipe.schema import Recipe
from ..system import unforeseen
from .arguments import DEBUG, read_recipe
from .failures import explain
from .status import UNREAD

if TYPE_CHECKING:
    from rich.console import Console

COMMANDS = ("init", "inspect", "plan", "compare", "doctor")
"""Beside `train`, which has no name on the command line: `python -m vlora RECIPE`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command.

    Args:
        arguments: As typed after `python -m vlora`; None for those of this process.

    Returns:
        0 after success, 2 after an error that the user can mend, 1 after an unforeseen one, 130 after Ctrl-C.
    """
    typed = sys.argv[1:] if arguments is None else list(arguments)
    recipes: list[Recipe] = []
    try:
        _replace_unencodable()
        carry_out = _prepare(typed, recipes)
        from .screen import Screen

        return carry_out(Screen(highlight=False))
    except BrokenPipeError:
        # Python would write what is left when it ends, and complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last resort: the user reads a sentence
        problem, status = explain(error, typed, recipes[0] if recipes else None)
        details = unforeseen.show(error) if DEBUG in typed else ""
        print(f"{details}vlora: {problem}", file=sys.stderr)
        return status


def _replace_unencodable() -> None:
    """Print escapes for characters that the terminal's encoding lacks: rows may hold any."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _prepare(typed: list[str], recipes: list[Recipe]) -> "Callable[[Console], int]":
    """Parse a command's arguments, keep its recipe as soon as it is read, and give what carries the command out."""
    command = typed[0] if typed and typed[0] in COMMANDS else ""
    module: Any = importlib.import_module(f".{command or 'train'}", __package__)
    parsed = module.make_parser().parse_intermixed_args(typed[1:] if command else typed)
    parsed.typed = typed
    if "recipes" in parsed:
        parsed.recipe = read_recipe(parsed)
        recipes.append(parsed.recipe)
    prepared: Callable[[Console], int] = module.prepare(parsed)
    return prepared
