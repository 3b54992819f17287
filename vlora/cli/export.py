"""`python -m vlora export`: an adapter as other programs read it."""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

from ..system.nouns import with_noun
from .arguments import Parser, named, named_path
from .arguments import make_parser as make_plain_parser
from .failures import name_base, naming_arguments
from .screen import Screen
from .status import DONE

EXAMPLES = (
    "export runs/first --to peft # for transformers and PEFT",
    "export runs/first --to vllm --out first-vllm",
    "export runs/first --to gguf # for llama.cpp and Ollama",
    "export runs/first --to peft --base Qwen/Qwen3-VL-2B-Instruct",
)


def make_parser() -> Parser:
    """Make the parser of the command's arguments."""
    about = (
        "Write an adapter as other programs read it: a folder of PEFT's, as it is or within what vLLM or llama.cpp "
        "take. All methods become a LoRA or a DoRA on the published base; what a program cannot take is refused."
    )
    parser = make_plain_parser("export", about, EXAMPLES)
    parser.add_argument("adapter", type=named, help="a run's folder, or an adapter's file")
    parser.add_argument("--to", choices=("peft", "vllm", "gguf"), required=True, help="which program reads it")
    parser.add_argument(
        "--out", type=named_path, default=None, metavar="DIR", help="the folder (peft, vllm or gguf beside the adapter)"
    )
    parser.add_argument(
        "--base",
        type=named,
        default=None,
        metavar="MODEL",
        help="the published base, where the adapter was trained on a converted or quantized copy of it",
    )
    return parser


def prepare(parsed: argparse.Namespace) -> Callable[[Screen], int]:
    """Give what carries out the command."""
    return functools.partial(show_exported, parsed.adapter, parsed.to, parsed.out, parsed.base)


def show_exported(adapter: str, program: str, out: Path | None, base: str | None, console: Screen) -> int:
    """Write the folder, and show what it is and how it is used.

    Returns:
        0.
    """
    from ..export.programs import export

    with naming_arguments({"model.path": name_base(adapter, base)}):
        exported = export(adapter, program, out, base)
    console.tell(exported)
    for line in exported.notes:
        console.print(f"note: {line}", markup=False, soft_wrap=True)
    console.print(
        f"base: {exported.base}; {with_noun(exported.n_layers, 'layer')} with adapters of rank {exported.rank}"
        + (f", {with_noun(exported.n_whole, 'array')} trained whole" if exported.n_whole else ""),
        markup=False,
        soft_wrap=True,
    )
    for line in exported.usage:
        console.print(f"  {line}", markup=False, soft_wrap=True)
    with console.result():
        console.print(f"adapter: {exported.folder}", markup=False, soft_wrap=True)
    return DONE
