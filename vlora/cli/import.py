"""`python -m vlora import`: an adapter that another program wrote, as vlora's own."""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

from ..system.nouns import with_noun
from .arguments import Parser, named, named_path
from .arguments import make_parser as make_plain_parser
from .failures import naming_arguments
from .screen import Screen
from .status import DONE

EXAMPLES = (
    "import some/peft-folder # as TRL, LLaMA-Factory, ms-swift and Unsloth write them",
    "import some/peft-folder --model me/base-4bit --out mine",
)


def make_parser() -> Parser:
    """Make the parser of the command's arguments."""
    about = (
        "Write an adapter of PEFT, mlx-lm or mlx-vlm as vlora's own, which mlx_vlm loads. model.adapter_path goes on "
        "from it, and from such folders as they are. An array that fits nowhere is an error."
    )
    parser = make_plain_parser("import", about, EXAMPLES)
    parser.add_argument("adapter", type=named, help="its folder, or its file of arrays")
    parser.add_argument(
        "--model", type=named, default=None, metavar="MODEL", help="the base, if not the one that it names"
    )
    parser.add_argument(
        "--out", type=named_path, default=None, metavar="DIR", help="the folder (mlx beside the adapter)"
    )
    return parser


def prepare(parsed: argparse.Namespace) -> Callable[[Screen], int]:
    """Give what carries out the command."""
    return functools.partial(show_imported, parsed.adapter, parsed.model, parsed.out)


def show_imported(adapter: str, model: str | None, out: Path | None, console: Screen) -> int:
    """Write the adapter, and show what it is.

    Returns:
        0.
    """
    from ..export.foreign import import_adapter

    with naming_arguments({"model.path": "--model"}):
        imported = import_adapter(adapter, model, out)
    if imported.note is not None:
        console.print(f"note: {imported.note}", markup=False, soft_wrap=True)
    console.tell(imported)
    whole = f", trained whole: {', '.join(imported.tables)}" if imported.tables else ""
    layers = with_noun(imported.n_layers, "layer")
    line = f"base: {imported.base}; {layers}, {imported.method} of rank {imported.rank}{whole}"
    console.print(line, markup=False, soft_wrap=True)
    with console.result():
        console.print(f"adapter: {imported.folder}", markup=False, soft_wrap=True)
    return DONE
