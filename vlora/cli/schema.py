"""`python -m vlora schema`: prints a JSON Schema of recipes, for editors."""

import argparse
import json
from collections.abc import Callable

from ..recipe.json_schema import make_schema
from .arguments import Parser
from .arguments import make_parser as make_plain_parser
from .screen import Screen
from .status import DONE


def make_parser() -> Parser:
    """Make the parser of the command's arguments."""
    about = "Print a JSON Schema of recipes, by which editors complete and explain keys and mark what is wrong."
    examples = ("schema > vlora.schema.json", "schema --json # in one line, as one event")
    return make_plain_parser("schema", about, examples)


def prepare(_: argparse.Namespace) -> Callable[[Screen], int]:
    """Give what carries out the command."""
    return show_schema


def show_schema(console: Screen) -> int:
    """Print the schema.

    Returns:
        0.
    """
    schema = make_schema()
    console.tell("Schema", schema=schema)
    with console.result():
        console.out(json.dumps(schema, indent=2), highlight=False)
    return DONE
