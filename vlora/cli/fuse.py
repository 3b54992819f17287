"""`python -m vlora fuse`: an adapter and its base written as one model, which other programs open."""

import argparse
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..system.nouns import with_noun
from .arguments import Parser, named, named_path
from .arguments import make_parser as make_plain_parser
from .failures import name_base, naming_arguments
from .screen import Screen
from .status import DONE
from .units import format_bytes

if TYPE_CHECKING:
    from ..export.fuse import Fused

EXAMPLES = (
    "fuse runs/first # the model into runs/first/fused",
    "fuse runs/first --quantize 4 --out first-4bit",
    "fuse runs/first --quantize none # unpack a base of 4 bits",
    "fuse runs/first --base some/model # another copy of the base",
)


def make_parser() -> Parser:
    """Make the parser of the command's arguments."""
    about = (
        "Write the model that an adapter has made of its base, in the base's own layout: weights, tokenizer, processor "
        "and chat template. mlx_vlm opens the folder, and so does transformers where nothing is quantized."
    )
    parser = make_plain_parser("fuse", about, EXAMPLES)
    parser.add_argument("adapter", type=named, help="a run's folder, or an adapter's file")
    parser.add_argument(
        "--quantize",
        choices=("keep", "none", "4", "8"),
        default="keep",
        help="bits of a weight: keep those that the adapter was trained on (the default), none, 4 or 8",
    )
    parser.add_argument(
        "--out", type=named_path, default=None, metavar="DIR", help="the folder (fused beside the adapter)"
    )
    parser.add_argument(
        "--base", type=named, default=None, metavar="MODEL", help="the base, if it is not where it was in training"
    )
    return parser


def prepare(parsed: argparse.Namespace) -> Callable[[Screen], int]:
    """Give what carries out the command."""
    return functools.partial(show_fused, parsed.adapter, parsed.out, parsed.quantize, parsed.base)


def show_fused(adapter: str, out: Path | None, quantize: str, base: str | None, console: Screen) -> int:
    """Write the model, and show what it is.

    Returns:
        0.
    """
    from ..export.fuse import fuse

    with naming_arguments({"model.path": name_base(adapter, base)}):
        fused = fuse(adapter, out, quantize=quantize, base=base)  # type: ignore[arg-type]
    if fused.note is not None:
        console.print(f"note: {fused.note}", markup=False, soft_wrap=True)
    rounding = fused.rounding
    console.tell(fused, rounding={"share": rounding.share, "share_of_update": rounding.share_of_update})
    for line in describe(fused):
        console.print(line, markup=False, soft_wrap=True)
    with console.result():
        console.print(f"model: {fused.folder} ({format_bytes(fused.n_bytes)})", markup=False, soft_wrap=True)
    return DONE


def describe(fused: "Fused") -> Iterator[str]:
    """Yield the lines that say what was written."""
    whole = f" and {with_noun(fused.n_whole, 'parameter')} trained whole" if fused.n_whole else ""
    yield f"base: {fused.base}; {with_noun(fused.n_layers, 'layer')} with adapters{whole}"
    rounding = fused.rounding
    if rounding.n_layers:
        update = rounding.share_of_update
        beside = "" if update is None else f", {update:.1%} of what was learned"
        worst = "" if rounding.worst is None else f"; most in {rounding.worst[0]} ({rounding.worst[1]:.2%})"
        yield (
            f"quantized again: {with_noun(rounding.n_layers, 'layer')}, which changes their weights by "
            f"{rounding.share:.2%}{beside}{worst}"
        )
    if fused.why_mlx is None and fused.is_converted:
        yield "layout: the base's own, which is that of mlx-vlm's conversion, and which transformers does not open"
    if fused.why_mlx is not None:
        yield f"layout: that of mlx-vlm's conversion, which transformers does not open, because {fused.why_mlx}"
