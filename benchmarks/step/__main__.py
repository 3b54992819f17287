"""The command."""

from vlora.ops import blas  # noqa: F401 - first: it binds a fast BLAS before MLX multiplies anything

# isort: split
import argparse
import gc
import hashlib
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from vlora import Recipe, dump_recipe, parse_recipe
from vlora.errors import RecipeError
from vlora.recipe.parse import parse_value

from .measuring import measure
from .peer import describe
from .report import describe_machine, show_machine, show_result

NOTHING_MEASURED = 2


def read_recipe(path: Path, sets: Sequence[str]) -> Recipe:
    """Read a recipe file with the overrides of the command line.

    Raises:
        RecipeError: It cannot be read, or something in it is wrong.
    """
    overrides = {}
    for assignment in sets:
        key, found, value = assignment.partition("=")
        if not found:
            msg = f"--set: found {assignment!r}, expected section.key=value"
            raise RecipeError(msg)
        overrides[key.strip()] = parse_value(value.strip())
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"cannot read the recipe ({error})"
        raise RecipeError(msg) from None
    return parse_recipe(text, overrides)


def at_least(minimum: int, text: str) -> int:
    """Read a whole number of the command line."""
    number = int(text)
    if number < minimum:
        msg = f"found {number}, expected at least {minimum}"
        raise argparse.ArgumentTypeError(msg)
    return number


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description="Time the training step of recipes.")
    parser.add_argument("recipes", nargs="+", type=Path, help="TOML files")
    parser.add_argument("--peer", action="store_true", help="measure mlx-vlm's own step too")
    parser.add_argument("--steps", type=partial(at_least, 1), default=10, metavar="N", help="timed steps (10)")
    parser.add_argument("--warmup", type=partial(at_least, 0), default=3, metavar="N", help="steps before (3)")
    parser.add_argument(
        "--set",
        dest="sets",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override a key of every recipe",
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    """Measure recipes and print what was found.

    Args:
        arguments: As typed after `python -m benchmarks.step`.

    Returns:
        0, or 2 if no recipe could be measured.
    """
    parsed = make_parser().parse_args(arguments)
    machine = describe_machine()
    show_machine(machine)
    results = []
    for path in parsed.recipes:
        result: dict[str, Any] = {"recipe": str(path)}
        try:
            recipe = read_recipe(path, parsed.sets)
            result["recipe_sha256"] = hashlib.sha256(dump_recipe(recipe).encode()).hexdigest()
            result |= measure(recipe, n_steps=parsed.steps, n_warmup=parsed.warmup, with_peer=parsed.peer)
        except Exception as error:  # noqa: BLE001 - one recipe must not cost the others' numbers
            result["error"] = describe(error)
        results.append(result)
        show_result(result)
        # Compiled functions and what they hold form cycles; the next recipe needs the room.
        gc.collect()
        mx.clear_cache()
    summary = {
        "machine": machine,
        "steps": parsed.steps,
        "warmup": parsed.warmup,
        "set": parsed.sets,
        "results": results,
    }
    print()
    print(json.dumps(summary, allow_nan=False))
    return 0 if any("vlora" in result for result in results) else NOTHING_MEASURED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
