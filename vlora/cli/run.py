"""`python -m vlora run`: asks a trained model, once or in a conversation; answers appear as they are written."""

import argparse
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RecipeError, VloraError
from .arguments import Parser, named, positive
from .arguments import make_parser as make_plain_parser
from .failures import name_base, naming_arguments
from .screen import Screen
from .status import DONE

if TYPE_CHECKING:
    from ..models.generation.talk import Talk

EXAMPLES = (
    "run runs/first --image cat.png --prompt 'What is it?'",
    "run runs/first --image a.png --image b.png --prompt 'Which?'",
    "run runs/first # a conversation; /image FILE shows an image",
    "run me/some-model --temperature 0.7",
)

HELP = "/image FILE shows an image with the next question, /new begins anew, /exit ends; Ctrl-C ends an answer"
PROMPT = "> "


def make_parser() -> Parser:
    """Make the parser of the command's arguments."""
    about = (
        "Ask what was trained, by the forward that it was trained with: one question, or a conversation without "
        "--prompt. The chat template and the system prompt are those of training."
    )
    parser = make_plain_parser("run", about, EXAMPLES)
    parser.add_argument("model", type=named, help="a run's folder, an adapter's file, a model's folder, or a hub id")
    parser.add_argument(
        "--image", type=named, action="append", default=[], metavar="FILE", help="an image; may be repeated"
    )
    parser.add_argument("--prompt", default=None, help="the question; without one a conversation begins")
    parser.add_argument("--max-tokens", type=positive(int), default=512, help="tokens of an answer at most (512)")
    parser.add_argument(
        "--temperature", type=_temperature, default=0.0, help="0 (the default) for the likeliest tokens"
    )
    parser.add_argument("--system", default=None, help="another system prompt than that of training")
    parser.add_argument(
        "--base", type=named, default=None, metavar="MODEL", help="the base, if it is not where it was in training"
    )
    return parser


def _temperature(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        msg = f"found {text}, must be 0 or greater"
        raise argparse.ArgumentTypeError(msg)
    return value


def prepare(parsed: argparse.Namespace) -> Callable[[Screen], int]:
    """Give what carries out the command."""
    if parsed.prompt is not None and not parsed.prompt.strip():
        msg = "--prompt: found no question; leave it out for a conversation"
        raise RecipeError(msg)
    return functools.partial(carry_out, parsed)


def carry_out(parsed: argparse.Namespace, console: Screen) -> int:
    """Load the model and ask it.

    Returns:
        0.
    """
    # A slip in a file's name should not wait for the model.
    for image in parsed.image:
        refuse_missing(image)
    from ..models import AnswerOptions
    from ..run.origin import is_adapter
    from ..run.talking import open_talk

    options = AnswerOptions(max_new_tokens=parsed.max_tokens, temperature=parsed.temperature)
    named = name_base(parsed.model, parsed.base) if is_adapter(parsed.model) else "model"
    with naming_arguments({"model.path": named}):
        asked = open_talk(parsed.model, options, base=parsed.base, system=parsed.system)
    if asked.note is not None:
        console.print(f"note: {asked.note}", markup=False, soft_wrap=True)
    if parsed.prompt is not None:
        show_answer(asked.talk, parsed.prompt, parsed.image, console)
        return DONE
    converse(asked.talk, parsed.image, console)
    return DONE


def refuse_missing(image: str) -> None:
    """Refuse an image that is not there.

    Raises:
        RecipeError: It is not.
    """
    if not Path(image).expanduser().is_file():
        msg = f"--image: there is no file {image}; give an image's path"
        raise RecipeError(msg)


def show_answer(talk: "Talk", question: str, images: Sequence[str], console: Screen) -> None:
    """Ask a question, and show the answer piece by piece.

    Raises:
        VloraError: It cannot be answered.
        KeyboardInterrupt: Ctrl-C was pressed; what there was of the answer was shown.
    """
    said, finish = "", "interrupted"
    try:
        for piece in talk.ask(question, images):
            said += piece
            with console.result():
                console.out(piece, end="", highlight=False)
        finish = "stop" if talk.is_whole else "length"
    finally:
        if said:
            with console.result():
                console.out("", highlight=False)
        if said or finish != "interrupted":
            console.tell("Answer", text=said, n_tokens=talk.n_tokens, finish=finish)


def converse(talk: "Talk", images: Sequence[str], console: Screen) -> None:
    """Ask what is typed until the input ends, an empty line being none; an error is told, and the talk goes on."""
    console.print(HELP, style="dim", markup=False, soft_wrap=True)
    waiting = list(images)
    for line in _lines(console):
        command, _, rest = line.partition(" ")
        try:
            if command == "/exit":
                return
            if command == "/new":
                talk.begin_anew()
                waiting.clear()
            elif command == "/image":
                refuse_missing(rest.strip())
                waiting.append(rest.strip())
            elif command.startswith("/") and not Path(command).exists():
                console.print(HELP, style="dim", markup=False, soft_wrap=True)
            else:
                shown = tuple(waiting)
                show_answer(talk, line, shown, console)
                waiting.clear()
        except VloraError as error:
            print(f"vlora: {error}", file=sys.stderr)
            console.tell("Error", message=str(error), status=0)
            waiting.clear()
        except KeyboardInterrupt:
            waiting.clear()


def _lines(console: Screen) -> Iterator[str]:
    """Yield what is typed, line by line."""
    while True:
        try:
            line = input(PROMPT if console.is_terminal and console.mode == "all" else "").strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            console.print("\n/exit or Ctrl-D ends", style="dim", markup=False)
            continue
        if line:
            yield line
