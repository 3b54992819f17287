"""`python -m vlora RECIPE`: trains as a recipe says, and prints the progress."""

import argparse
import functools
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RecipeError
from ..events import Event, Finished, StepReport, Working
from ..recipe.legacy import idle_options
from ..recipe.schema import Recipe
from ..system.signals import EndedError, Signals, stop_on_signals
from .arguments import Parser, make_recipe_parser
from .consumers import open_consumers
from .devices import is_other_rank, is_rank, launch_ranks
from .importing import importing
from .status import DONE

if TYPE_CHECKING:
    from .screen import Screen

EXAMPLES = (
    "my.toml",
    "my.toml --resume # go on where it stopped",
    "my.toml --set train.epochs=1 --set output.path=runs/short # other values",
    "my.toml --devices 2 # on two devices of this machine",
    "my.toml --json # one event a line, for programs",
    "--dataset rows.jsonl --lora-rank 16 # without a recipe",
)


def make_parser() -> Parser:
    """Make the parser of the command's arguments."""
    parser = make_recipe_parser(
        "train",
        "Fine-tune a vision-language model as a recipe says.",
        EXAMPLES,
        "python -m vlora [train] [options] [recipe]",
    )
    resuming = parser.add_mutually_exclusive_group()
    resuming.add_argument("--resume", action="store_true", default=False, help="go on where the run stopped")
    resuming.add_argument(
        "--resume-or-start",
        action="store_true",
        default=False,
        help="go on where the run stopped, and begin anew where there is nothing to go on from",
    )
    parser.add_argument(
        "--devices",
        type=int,
        default=1,
        metavar="N",
        help="share out the rows among N devices of this machine; train.batch_size is that of one device",
    )
    return parser


def prepare(parsed: argparse.Namespace) -> "Callable[[Screen], int]":
    """Give what carries out the command."""
    if parsed.devices < 1:
        msg = f"--devices: found {parsed.devices}, must be at least 1"
        raise RecipeError(msg)
    if parsed.devices > 1 and not is_rank():
        return lambda _: launch_ranks(parsed.devices, parsed.typed)
    if is_other_rank():
        # The first one shows the run of all.
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
    again = [word for word in parsed.typed if word not in ("--resume", "--resume-or-start")]
    go_on = shlex.join(["python", "-m", "vlora", *again, "--resume"])
    return functools.partial(
        train,
        parsed.recipe,
        resume=parsed.resume or parsed.resume_or_start,
        or_start=parsed.resume_or_start,
        go_on=go_on,
        notes=tuple(idle_options(vars(parsed), parsed.recipe)),
    )


def train(
    recipe: Recipe,
    console: "Screen",
    *,
    resume: bool = False,
    or_start: bool = False,
    go_on: str = "",
    notes: Sequence[str] = (),
) -> int:
    """Train as a recipe says, and print the progress.

    Args:
        recipe: The recipe.
        console: Where to print.
        resume: Whether to resume from the training state beside the output.
        or_start: Whether to begin anew where there is none.
        go_on: The command that resumes the run.
        notes: Notes on the options, printed first.

    Returns:
        0 if nothing is left to be done, also after a signal; otherwise 128 and the signal's number: 130 after Ctrl-C,
        143 after SIGTERM, 129 after SIGHUP, 141 if the output has no reader any more.
    """
    from .view import open_view

    finished: Finished | None = None
    try:
        with _stop_on_signals(console) as signals, open_view(console) as view:
            with importing(recipe):
                from ..compilation.known_kernels import begin_for

                view.show(Working(what="importing MLX, mlx-vlm and transformers"))
                if not is_other_rank():
                    # Before the slow imports, so that workers compile meanwhile.
                    begin_for(recipe)
                from ..run.fit import fit
                from .ending import show_end
            with nullcontext(_ignore) if is_other_rank() else open_consumers(recipe, view.warn, go_on) as consume:
                for note in notes:
                    view.warn(note)
                for event in fit(recipe, resume=resume, or_start=or_start, should_stop=signals.is_asked):
                    signals.has_stepped |= isinstance(event, StepReport)
                    view.show(event)
                    consume(event)
                    if isinstance(event, Finished):
                        finished = event
    except EndedError as ended:
        if finished is None:
            console.print(_describe_end(ended))
            return ended.status
    if finished is None:
        msg = "a run has ended without its last event"
        raise RuntimeError(msg)
    with console.result():
        show_end(finished, recipe, console, go_on)
    return DONE if finished.is_complete else signals.status


@contextmanager
def _stop_on_signals(console: "Screen") -> Iterator[Signals]:
    """Let signals and a closed pipe ask the run to stop while the `with` lasts."""

    def say(line: str) -> None:
        console.print(line)

    def hush() -> None:
        console.file = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends

    def leave(number: int) -> None:
        console.show_cursor()
        console.print(_describe_end(EndedError(number)))

    with stop_on_signals(say, hush, leave) as signals:
        console.when_unread = signals.go_unread
        yield signals


def _ignore(_: Event) -> None:
    """Take an event of a rank that another one shows."""


def _describe_end(ended: EndedError) -> str:
    return f"ended by {ended}; what was saved before it stays"
