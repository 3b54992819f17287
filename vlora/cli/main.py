"""The command line. The only place that prints, reads arguments and listens to Ctrl-C.

What carries out a command is imported when its recipe has been read: no mistake in a recipe waits for mlx-vlm,
transformers and datasets.
"""

import argparse
import gc
import io
import math
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import attrs
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from ..errors import OutOfMemoryError, RecipeError, VloraError
from ..events import (
    Compiled,
    Compiling,
    Event,
    FeatureCounts,
    Finished,
    Generated,
    Reported,
    Saved,
    Skipped,
    Started,
    StepReport,
    Warned,
)
from ..recipe.legacy import OPTIONS, overrides_from
from ..recipe.schema import Recipe, parse_recipe, parse_value
from ..system import unforeseen
from ..system.redaction import redact
from ..system.signals import EndedError, stop_on_signals
from .screen import USER_ERROR, Screen

if TYPE_CHECKING:
    from ..estimate.plan import Plan

COMMANDS = {
    "inspect": "Show the first rows as the model will see them, or count all of them.",
    "doctor": "Prove vlora on this machine, in minutes, without a network or a model; --write FILE keeps the outcome.",
    "plan": "Say what memory a recipe needs, part by part, and how long its rows may be; no weights are loaded.",
}
UNPROVEN = 1
UNFORESEEN = 1
"""What ends a command that ought not to end: a fault of vlora's, and not of what it was given."""
INTERRUPTED = 130
UNREAD = 141
"""As if SIGPIPE had ended the program: nobody reads what it prints any more."""
DEBUG = "--debug"


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    for stream in (sys.stdout, sys.stderr):
        # Rows may hold what the terminal's encoding, or none, has no characters for.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main(sys.argv[1:] if arguments is None else arguments))


def main(arguments: Sequence[str]) -> int:
    """Carry out one command.

    Args:
        arguments: As typed after `python -m vlora`.

    Returns:
        0 if all went well, 2 if the user can mend what went wrong, 1 if nobody has foreseen it, 130 after Ctrl-C.
    """
    found: list[Recipe] = []
    try:
        return _carry_out(list(arguments), Screen(highlight=False), found.append)
    except BrokenPipeError:
        # Python would write what is left when it ends, and complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last resort: the user reads a sentence
        problem, status = _explain(error, arguments, found)
        details = unforeseen.show(error) if DEBUG in arguments else ""
        Console(stderr=True, highlight=False).print(f"{details}vlora: {problem}", markup=False, soft_wrap=True)
        return status


def _explain(error: BaseException, arguments: Sequence[str], recipes: list[Recipe]) -> tuple[str, int]:
    """Say what a command has ended with, and the status that says so to the shell."""
    problem, status = _find_words(error, arguments, recipes)
    return "; ".join([problem, *getattr(error, "__notes__", ())]), status


def _find_words(error: BaseException, arguments: Sequence[str], recipes: list[Recipe]) -> tuple[str, int]:
    if isinstance(error, VloraError):
        return str(error), USER_ERROR
    if isinstance(error, KeyboardInterrupt):
        return "ended by SIGINT", INTERRUPTED
    if isinstance(error, MemoryError):
        found = str(error) or "Python could not get it"
        return str(OutOfMemoryError("this command", found, is_host=True)), USER_ERROR
    if isinstance(error, OSError) and error.filename is not None:
        problem = f"{error.filename}: cannot be read or written ({error.strerror})"
        return redact(f"{problem}; see output.path, or the path in the recipe that leads there"), USER_ERROR
    return unforeseen.report(error, arguments, _find_output(recipes)), UNFORESEEN


def _carry_out(arguments: list[str], console: Console, tell: Callable[[Recipe], None]) -> int:
    """Carry out one command, and tell its recipe as soon as it is known."""
    command = arguments[0] if arguments and arguments[0] in COMMANDS else ""
    if command == "doctor":
        return show_checks(_make_doctor_parser().parse_args(arguments[1:]).write, console)
    parsed = _make_parser(command).parse_intermixed_args(arguments[1:] if command else arguments)
    recipe = _read_recipe(parsed)
    tell(recipe)
    if command == "inspect":
        with _importing(recipe):
            from .rows import show_census, show_rows
        return show_census(recipe, console) if parsed.all else show_rows(recipe, parsed.rows, console)
    if command == "plan":
        with _importing(recipe, needs_rows=False):
            from ..estimate.plan import make_plan
        return show_plan(make_plan(recipe, parsed.memory_gb), console)
    again = shlex.join(["python", "-m", "vlora", *(a for a in arguments if a != "--resume"), "--resume"])
    return train(recipe, console, resume=parsed.resume, go_on=again)


def _find_output(recipes: list[Recipe]) -> Path | None:
    """Give the folder that a run writes to, if there was a recipe and it names one that can be."""
    from ..output.paths import output_paths

    try:
        return output_paths(recipes[0]).folder if recipes else None
    except (OSError, ValueError, RuntimeError):
        return None


def train(recipe: Recipe, console: Console, *, resume: bool = False, go_on: str = "") -> int:
    """Carry out a recipe and show how it goes.

    Args:
        recipe: What to do.
        console: Where to show it.
        resume: Go on from the training state beside the output.
        go_on: The command that would go on after an interruption.

    Returns:
        0; after a signal that ended the run 128 and its number: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP,
        141 where nobody reads any more what is printed.
    """
    finished: Finished | None = None

    def say(line: str) -> None:
        console.print(line)

    def hush() -> None:
        console.file = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends

    def leave(number: int) -> None:
        console.show_cursor()
        console.print(_describe_end(EndedError(number)))

    try:
        with stop_on_signals(say, hush, leave) as signals:
            if isinstance(console, Screen):
                console.when_unread = signals.go_unread
            with _importing(recipe):
                from ..compilation.known_kernels import begin

                # Before what takes long to import: workers compile meanwhile.
                begin(recipe.model.path)
                from ..run.fit import fit
            with _make_view(console) as view:
                for event in fit(recipe, resume=resume, should_stop=signals.is_asked):
                    signals.has_stepped |= isinstance(event, StepReport)
                    view.show(event)
                    if isinstance(event, Finished):
                        finished = event
    except EndedError as ended:
        if finished is None:
            console.print(_describe_end(ended))
            return ended.status
    if finished is None:
        msg = "a run has ended without its last event"
        raise RuntimeError(msg)
    _show_end(finished, recipe, console, go_on)
    return 0 if finished.step == finished.n_steps else signals.status


def _describe_end(ended: EndedError) -> str:
    return f"ended by {ended}; what was saved before it stays"


def show_plan(plan: "Plan", console: Console) -> int:
    """Show what a recipe will need.

    Returns:
        0, or 2 if it does not fit.
    """
    from ..estimate.plan import LONGEST

    share = plan.n_trainable / plan.n_params
    console.print(
        f"{plan.model_type}: {_count(plan.n_trainable)} of {_count(plan.n_params)} parameters trained ({share:.2%})"
    )
    console.print(
        f"{plan.batch_size} rows of {plan.n_tokens} tokens, {plan.n_supervised} places supervised ({plan.rows})",
        markup=False,
        soft_wrap=True,
    )
    for part, nbytes in plan.parts.items():
        console.print(f"  {part:<16}{nbytes / 1e9:>9.3f} GB")
    fits = plan.peak <= plan.memory
    verdict = "fits into" if fits else "does not fit into"
    console.print(f"  {'peak':<16}{plan.peak / 1e9:>9.3f} GB", style="bold")
    console.print(f"{verdict} {_size(plan.memory)}", style="" if fits else "bold red")
    if plan.longest is not None:
        least = "at least " if plan.longest == LONGEST else ""
        console.print(f"longest rows of text that fit, {plan.batch_size} at a time: {least}{plan.longest:,} tokens")
    return 0 if fits else USER_ERROR


def show_checks(file: Path | None, console: Console) -> int:
    """Prove vlora on this machine, and show each check as it ends.

    Args:
        file: Where the outcome is written, as JSON; None for nowhere.
        console: Where it is shown.

    Returns:
        0 if everything is as it should be, else 1.
    """
    from ..doctor import checks as doctor
    from ..output import checkpoint

    def say(line: str, style: str = "") -> None:
        console.print(Text(line, style=style), soft_wrap=True)

    machine = doctor.describe_machine()
    for name, value in machine.items():
        say(f"{name}: {value}")
    checks = doctor.find_checks()
    outcomes: list[doctor.Outcome] = []
    with tempfile.TemporaryDirectory(prefix="vlora-doctor-", ignore_cleanup_errors=True) as folder:
        for outcome in doctor.run_checks(Path(folder), checks):
            outcomes.append(outcome)
            mark, style = ("ok  ", "") if outcome.is_ok else ("FAIL", "bold red")
            say(f"{mark} {outcome.name} ({outcome.seconds:.1f} s): {outcome.found}", style)
            if file is not None:
                # A pipe or a terminal is written to, and not replaced.
                write = Path.write_text if file.exists() and not file.is_file() else checkpoint.write_text
                write(file, doctor.report(machine, outcomes, len(checks)))
    n_failed = sum(not outcome.is_ok for outcome in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    if file is not None:
        say(f"written to {file}")
    is_proven = doctor.is_proven(outcomes)
    verdict = "vlora works here" if is_proven else f"{n_failed} of {len(outcomes)} checks failed; please report them"
    say(f"{verdict} ({seconds:.0f} s)", "bold" if is_proven else "bold red")
    return 0 if is_proven else UNPROVEN


class _Parser(argparse.ArgumentParser):
    """Points to the list of options in a complaint, and repeats no value that is longer than one reads."""

    def error(self, message: str) -> NoReturn:
        """Complain and exit."""
        super().error(f"{redact(message)}; --help lists the options")


def _make_doctor_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m vlora doctor", description=COMMANDS["doctor"], allow_abbrev=False)
    parser.add_argument("--write", type=Path, default=None, metavar="FILE", help="write the outcome there, as JSON")
    _add_debug(parser)
    return parser


def _add_debug(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(DEBUG, action="store_true", default=False, help="show the traceback of what goes wrong")


def _make_parser(command: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"python -m vlora {command}".strip(),
        description=COMMANDS.get(
            command,
            "Fine-tune a vision-language model. `python -m vlora inspect RECIPE` shows its rows first, "
            "`python -m vlora plan RECIPE` what memory it needs, `python -m vlora doctor` proves vlora here.",
        ),
        usage=f"python -m vlora {command}".strip() + " [options] [recipe]",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "recipes",
        nargs="*",
        default=[],
        metavar="recipe",
        help="a TOML file; recipes/forkme.toml explains every key",
    )
    parser.add_argument(
        "--set",
        dest="sets",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override a key",
    )
    if command == "inspect":
        parser.add_argument("--rows", type=_positive(int), default=3, help="how many rows (3)")
        parser.add_argument("--all", action="store_true", default=False, help="count all rows; decodes no images")
    elif command == "plan":
        parser.add_argument(
            "--memory-gb", type=_positive(float), default=None, help="how much there is, if not what is here"
        )
    else:
        parser.add_argument("--resume", action="store_true", default=False, help="go on where the run stopped")
    _add_debug(parser)
    older = parser.add_argument_group("options of mlx-vlm's lora.py, alone or on top of a recipe")
    for option in OPTIONS:
        if option.kind == "flag":
            older.add_argument(option.flag, action="store_true", help=option.text)
        elif option.kind == "pair":
            older.add_argument(option.flag, nargs=2, type=int, metavar=("H", "W"), help=option.text)
        else:
            older.add_argument(option.flag, type=option.kind, help=option.text)
    return parser


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            msg = f"found {text}, must be greater than 0"
            raise argparse.ArgumentTypeError(msg)
        return value

    # What argparse calls it where it is no number at all.
    parse.__name__ = kind.__name__
    return parse


def _read_recipe(parsed: argparse.Namespace) -> Recipe:
    names = {option.name for option in OPTIONS}
    overrides = overrides_from({name: value for name, value in vars(parsed).items() if name in names})
    for assignment in parsed.sets:
        key, found, value = assignment.partition("=")
        if not found:
            msg = f"--set: found {assignment!r}, expected section.key=value"
            raise RecipeError(msg)
        overrides[key.strip()] = parse_value(value.strip())
    if len(parsed.recipes) > 1:
        msg = f"found {len(parsed.recipes)} recipes, {', '.join(parsed.recipes)}; give one, --set changes its keys"
        raise RecipeError(msg)
    if not parsed.recipes:
        if not overrides:
            msg = "give a recipe, such as recipes/quickstart.toml, or at least --dataset; --help lists the options"
            raise RecipeError(msg)
        return parse_recipe("", overrides)
    path = Path(parsed.recipes[0])
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        near = sorted(file.name for file in Path("recipes").glob("*.toml"))
        hint = f"; recipes/ has {', '.join(near)}" if near else ""
        found = getattr(error, "strerror", None) or error
        msg = f"{path}: cannot read the recipe ({found}){hint}"
        raise RecipeError(msg) from None
    try:
        return parse_recipe(text, overrides)
    except RecipeError as error:
        msg = "\n  ".join([f"{path}:", *str(error).splitlines()])
        raise RecipeError(msg) from None


@contextmanager
def _importing(recipe: Recipe, *, needs_rows: bool = True) -> Iterator[None]:
    """Look for a recipe's rows, which is quick, and then let be imported what reads and learns them, which is not.

    A plan is made without rows, too. The garbage collector waits: there is none, and looking for it among the modules
    is a tenth of the time.
    """
    from ..data.rows import check_paths

    if needs_rows:
        check_paths(recipe.data)
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@attrs.define
class _View:
    """Plain lines; with a terminal, a bar below them."""

    console: Console
    progress: Progress | None
    task: TaskID | None = None

    def show(self, event: Event) -> None:
        if isinstance(event, Started):
            self._show_start(event)
        elif isinstance(event, StepReport):
            self._move_bar(event)
        elif isinstance(event, Reported) and {"loss", "valid_loss"} & set(event.metrics):
            # Rounds of answers have been shown answer by answer.
            self._print(_report_line(event, self.console.width if self.progress is not None else None))
        elif isinstance(event, Skipped):
            self._print(f"[yellow]skipped[/] {escape(event.reason)}")
        elif isinstance(event, Warned):
            self._print(f"[yellow]note[/] {escape(event.message)}")
        elif isinstance(event, Compiling):
            self._print(f"compiling {event.n_kernels} kernels, {event.n_workers} at a time")
        elif isinstance(event, Compiled):
            folder = escape(str(event.folder))
            self._print(f"compiled {event.n_kernels} kernels in {event.seconds:.1f} s, kept in {folder}")
        elif isinstance(event, Generated):
            self._show_answer(event)
        elif isinstance(event, Saved):
            self._print(f"saved {escape(str(event.path))} after step {event.step}")

    def _print(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)

    def _show_start(self, event: Started) -> None:
        device = event.device
        self._print(f"device: {device.kind}, {escape(device.name)}, {_size(device.memory_bytes)}")
        share = event.n_trainable / event.n_params
        self._print(
            f"{event.model_type}: {_count(event.n_trainable)} of {_count(event.n_params)} parameters trained "
            f"({share:.2%})"
        )
        for names in event.adapted:
            self._print(f"  adapter on {escape(names)}")
        held_out = f", {event.n_valid_rows} to validate on" if event.n_valid_rows else ""
        resumed = f", going on after step {event.first_step}" if event.first_step else ""
        about = "about " if event.is_estimated else ""
        self._print(f"{event.n_rows} rows{held_out}; {about}{event.n_steps} steps{resumed}")
        self._print(f"columns: {escape(event.columns)}")
        self._print(f"chat template: {escape(event.template)}")
        self._print(f"features of images: {escape(event.features)}")
        if event.head is not None:
            self._print(f"head: {escape(event.head)}")
        if self.progress is not None:
            self.task = self.progress.add_task("", total=event.n_steps, completed=event.first_step, status="")

    def _move_bar(self, event: StepReport) -> None:
        if self.progress is not None and self.task is not None:
            import mlx.core as mx

            status = (
                f"loss {event.loss:.4f}  mean {event.running_loss:.4f}  "
                f"{event.tokens / event.step_s:,.0f} tokens/s  {mx.get_peak_memory() / 1e9:.2f} GB"
            )
            self.progress.update(self.task, completed=event.step, total=event.n_steps, status=status)

    def _show_answer(self, event: Generated) -> None:
        if event.done == event.total:
            self._print(
                f"accuracy {event.when} training: [bold]{event.accuracy:.1%}[/] of {event.total} held-out rows "
                f"(last: expected {escape(repr(event.expected))}, answered {escape(repr(event.found))})"
            )


def _report_line(event: Reported, width: int | None = None) -> str:
    """Write a report in one line; one of `width` columns leaves out what the bar below shows if all does not fit."""
    metrics = event.metrics
    if "valid_loss" in metrics:
        return (
            f"step {metrics['step']:>6}  [bold]valid loss {metrics['valid_loss']:.4f}[/] over "
            f"{metrics['valid_tokens']:,} tokens of {metrics['valid_rows']} rows"
        )
    parts = {
        "loss": f"step {metrics['step']:>6}  loss {metrics['loss']:.4f}",
        "mean": f"mean {metrics['running_loss']:.4f}",
        "rate": f"lr {metrics['learning_rate']:.2e}  grad norm {metrics['grad_norm']:.3f}",
        "speed": f"{metrics['tokens_per_s']:,.0f} tokens/s",
        "memory": f"{metrics['peak_memory_gb']:.2f} GB",
    }
    line = "  ".join(parts.values())
    if width is None or len(line) <= width:
        return line
    return "  ".join(part for name, part in parts.items() if name not in {"mean", "memory"})


@contextmanager
def _make_view(console: Console) -> Iterator[_View]:
    if not console.is_terminal:
        yield _View(console, None)
        return
    columns = (
        BarColumn(bar_width=24),
        TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield _View(console, progress)


def _show_end(event: Finished, recipe: Recipe, console: Console, go_on: str) -> None:
    from ..output.paths import output_paths

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    _show_left_out(event, say)
    if event.features is not None and (line := _features_line(event.features)):
        say(line)
    if event.n_traces:
        shapes = "1 shape of batches was" if event.n_traces == 1 else f"{event.n_traces} shapes of batches were"
        say(f"{shapes} traced, in {event.trace_s:.1f} s")
    say(f"metrics: {output_paths(recipe).metrics}")
    if event.step < event.n_steps:
        say(f"stopped after step {event.step} of {event.n_steps}; this goes on:\n  {go_on}")
        return
    if recipe.data.chat_template is not None:
        say(
            "mlx-vlm's own programs know nothing of data.chat_template and ask in another layout than was trained; "
            "eval.answer_rows asks in it"
        )
    _show_command(event, say)


def _show_command(event: Finished, say: Callable[[str], None]) -> None:
    """Show how the trained model is asked, or why it cannot be."""
    if event.unasked is not None:
        say(f"the trained model {event.unasked}")
        return
    parts = ["python", "-m", "mlx_vlm.generate", "--model", event.model]
    if event.adapter is not None:
        parts += ["--adapter-path", str(event.adapter)]
    if event.example_image is not None:
        parts += ["--image", str(event.example_image)]
    parts += [
        "--prompt",
        event.example_question,
        "--max-tokens",
        str(event.max_new_tokens),
        "--temperature",
        "0",
    ]
    if event.config_differs_upstream:
        say(
            f"mlx-vlm's own programs read another rotary embedding from the config.json of {event.model} than "
            "transformers and vlora do, or fail: what this prints is then not what was trained"
        )
    if event.difference is not None:
        say(f"mlx-vlm generates with a model that differs from the one that was trained: {event.difference}")
    say(f"ask it:\n  {shlex.join(parts)}")


def _show_left_out(event: Finished, say: Callable[[str], None]) -> None:
    """Say how many rows were left out, and of how many a part."""
    if event.n_skipped:
        say(f"rows skipped, in all epochs together: {event.n_skipped}; their reasons stand above")
    if event.cuts.n_rows:
        losses = event.cuts.describe_losses()
        say(f"rows cut by data.max_seq_length, in all epochs together: {event.cuts.n_rows}; {losses}")


def _features_line(counts: FeatureCounts) -> str:
    total = counts.n_memory + counts.n_disk + counts.n_computed
    if not total:
        return ""
    return (
        f"features of {total:,} images: {counts.n_memory:,} from memory, {counts.n_disk:,} from disk, "
        f"{counts.n_computed:,} computed; kept now: {_size(counts.memory_bytes)} in memory, "
        f"{_size(counts.disk_bytes)} on disk"
    )


def _size(nbytes: int) -> str:
    for size, unit in ((1e9, "GB"), (1e6, "MB")):
        if nbytes >= size:
            return f"{nbytes / size:.2f} {unit}"
    return f"{nbytes / 1e3:.2f} kB"


def _count(number: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.2f}{unit}"
    return str(number)
