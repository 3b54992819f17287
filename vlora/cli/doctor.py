"""`python -m vlora doctor`: proves vlora on this machine, or checks a model."""

import argparse
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.text import Text

from ..system.nouns import with_noun
from .arguments import Parser, named, named_path
from .arguments import make_parser as make_plain_parser
from .screen import Screen
from .status import DONE, FAILED_CHECK

EXAMPLES = (
    "doctor",
    "doctor --write doctor.json # for a report",
    "doctor mlx-community/Qwen2-VL-2B-Instruct-bf16 # can it be trained?",
    "doctor models/mine --set model.quantize_bits=4",
)


def make_parser() -> Parser:
    """Make the parser of the command's arguments."""
    about = (
        "Prove vlora on this machine, in minutes, without a network or a model. With a model: check whether it can be "
        "trained, on a few short rows that are made here. --write FILE keeps the outcome; the status is 1 if a check "
        "fails."
    )
    parser = make_plain_parser("doctor", about, EXAMPLES)
    parser.add_argument("model", nargs="?", type=named, default=None, help="a model's folder or hub id")
    parser.add_argument(
        "--revision", type=named, default=None, help="which version of a hub id: a branch, a tag or a commit"
    )
    parser.add_argument(
        "--set",
        dest="sets",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="how the model is trained: keys of [model], [lora] and [memory], and some of [data]",
    )
    parser.add_argument(
        "--write", type=named_path, default=None, metavar="FILE", help="write the outcome there, as JSON"
    )
    return parser


def prepare(parsed: argparse.Namespace) -> Callable[[Screen], int]:
    """Give what carries out the command."""
    from .model_checks import refuse_without_model, show_model_checks

    if parsed.model is not None:
        return functools.partial(show_model_checks, parsed.model, parsed.revision, parsed.sets, parsed.write)
    refuse_without_model({"--revision": parsed.revision, "--set": parsed.sets})
    return functools.partial(show_checks, parsed.write)


def show_checks(file: Path | None, console: Screen) -> int:
    """Prove vlora on this machine, and show each check as it ends.

    Args:
        file: Where the outcome is written, as JSON; None for nowhere.
        console: Where it is shown.

    Returns:
        0 if everything is as it should be, else 1.
    """
    from ..doctor import checks as doctor
    from ..doctor.machine import describe_machine
    from ..output.named_files import open_named, write_named

    def say(line: str, style: str = "") -> None:
        console.print(Text(line, style=style), soft_wrap=True)

    target = None if file is None else open_named(file, "--write", doctor.is_report)
    machine = describe_machine()
    console.tell("Machine", **machine)
    for name, value in machine.items():
        say(f"{name}: {value}")
    checks = doctor.find_checks()
    outcomes: list[doctor.Outcome] = []
    with tempfile.TemporaryDirectory(prefix="vlora-doctor-", ignore_cleanup_errors=True) as folder:
        for outcome in doctor.run_checks(Path(folder), checks):
            outcomes.append(outcome)
            console.tell(outcome)
            mark, style = ("ok  ", "") if outcome.is_ok else ("FAIL", "bold red")
            say(f"{mark} {outcome.name} ({outcome.seconds:.1f} s): {outcome.found}", style)
            if target is not None:
                write_named(target, doctor.report(machine, outcomes, len(checks)))
    n_failed = sum(not outcome.is_ok for outcome in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    if target is not None:
        say(f"written to {file}")
    is_proven = doctor.is_proven(outcomes)
    verdict = (
        "vlora works here"
        if is_proven
        else f"{n_failed} of {with_noun(len(outcomes), 'check')} failed; please report what failed"
    )
    console.tell("Verdict", is_proven=is_proven, n_failed=n_failed, seconds=seconds)
    with console.result():
        say(f"{verdict} ({seconds:.0f} s)", "bold" if is_proven else "bold red")
    return DONE if is_proven else FAILED_CHECK
