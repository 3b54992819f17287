"""`python -m vlora push`: what was trained on the Hugging Face hub, with a card that says how."""

import argparse
import functools
from collections.abc import Callable

from .arguments import Parser, named, named_path
from .arguments import make_parser as make_plain_parser
from .screen import Screen
from .status import DONE
from .units import format_bytes

EXAMPLES = (
    "push runs/first --repo me/cats --private",
    "push runs/first --repo me/cats --dry-run # look at runs/first/hub first",
    "push runs/first/fused --repo me/cats-model # a fused model",
)


def make_parser() -> Parser:
    """Make the parser of the command's arguments."""
    about = (
        "Upload an adapter, or a model, to the Hugging Face hub, with a card that has its base, method, scores, "
        "curves, versions and recipe. Rows, answers, logs and paths of this machine stay here."
    )
    parser = make_plain_parser("push", about, EXAMPLES)
    parser.add_argument(
        "model", type=named, metavar="adapter", help="a run's folder, an adapter's file, or a model's folder"
    )
    parser.add_argument("--repo", type=named, required=True, metavar="NAME", help="the repository: owner/name, or name")
    parser.add_argument("--private", action="store_true", default=False, help="make a new repository private")
    parser.add_argument("--dry-run", action="store_true", default=False, help="write the folder, and upload nothing")
    parser.add_argument(
        "--out",
        type=named_path,
        default=None,
        metavar="DIR",
        help="the folder of a dry run (hub beside the run's files)",
    )
    return parser


def prepare(parsed: argparse.Namespace) -> Callable[[Screen], int]:
    """Give what carries out the command."""
    return functools.partial(show_pushed, parsed)


def show_pushed(parsed: argparse.Namespace, console: Screen) -> int:
    """Upload, or write what would be uploaded, and show where it is.

    Returns:
        0.
    """
    from ..export.hub import push

    pushed = push(
        parsed.model,
        parsed.repo,
        is_private=parsed.private,
        is_dry=parsed.dry_run,
        out=parsed.out,
        shows_progress=console.is_terminal and console.mode == "all",
    )
    console.tell(pushed)
    files = ", ".join(pushed.files)
    console.print(f"files: {files} ({format_bytes(pushed.n_bytes)})", markup=False, soft_wrap=True)
    with console.result():
        where = f"not uploaded: {pushed.folder}" if pushed.address is None else f"pushed: {pushed.address}"
        console.print(where, markup=False, soft_wrap=True)
    return DONE
