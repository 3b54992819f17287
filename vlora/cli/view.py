"""Output of a run: a line per event, and a progress bar below the lines on a terminal or in a notebook."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import attrs
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from ..events import (
    Compiled,
    Compiling,
    EpochEnded,
    Event,
    Generated,
    Reported,
    Saved,
    Scored,
    Skipped,
    Started,
    StepReport,
    StoppedEarly,
    Untrained,
    Warned,
    Working,
)
from ..measured import ACCURACIES, MARGINS, PASSED
from ..system.nouns import with_noun
from .progress.bar import PER_SECOND, format_seconds, write_bar, write_line
from .progress.rows import SECONDS
from .progress.state import ProgressState
from .screen import Screen
from .sentences import (
    describe_best,
    describe_columns,
    describe_early,
    describe_head,
    describe_share,
    describe_storage,
    describe_template,
    describe_untrained,
    explain_guessing,
)
from .units import format_bytes, format_count
from .wrapping import wrap

MOST_REASONS = 10_000
"""Reasons that are remembered so that each is said once."""

COUNTED = (StepReport, Generated)

BESIDE_A_BAR, IN_A_PIPE = ("memory", "mean", "total"), ("mean", "rate", "memory", "norm")
"""What a report that is too long leaves out, in this order."""


@attrs.define
class EventView:
    """Prints the events and the progress of a run.

    Attributes:
        console: Where they are printed.
        state: The run's progress.
        show_bar: Updates the progress bar; None where the progress is printed in lines.
        clock: Gives seconds.
    """

    console: Screen
    state: ProgressState = attrs.field(factory=ProgressState)
    show_bar: Callable[[], None] | None = None
    clock: Callable[[], float] = time.monotonic
    _printed: float = attrs.field(init=False, default=0.0)
    _reasons: set[str] = attrs.field(init=False, factory=set)

    def show(self, event: Event) -> None:
        """Print an event."""
        self.state.take(event)
        self._tell(event)
        if isinstance(event, Started):
            self._show_start(event)
        elif (line := self._write(event)) is not None:
            self._print(line)
        elif self.show_bar is None:
            self._show_progress(event)
        if self.show_bar is not None:
            self.show_bar()

    def warn(self, message: str) -> None:
        """Print a warning."""
        self.show(Warned(message=message))

    def _write(self, event: Event) -> str | None:
        """Return the line of an event; None for events without a line, or with several."""
        if isinstance(event, Reported) and {"loss", "valid_loss", PASSED} & set(event.metrics):
            # Rounds of answers have been printed answer by answer.
            return self._write_report(event)
        if isinstance(event, Compiling | Compiled):
            return describe_compilation(event)
        if isinstance(event, EpochEnded):
            name = escape(event.source) or "the stream"
            return (
                f"epoch {event.epoch:,} of {name} has ended with step {event.step:,}: {with_noun(event.n_rows, 'row')}"
            )
        if isinstance(event, Scored):
            return describe_scores(event, self.state.n_steps)
        if isinstance(event, Skipped):
            return self._write_skipped(event)
        return _write_note(event)

    def _write_skipped(self, event: Skipped) -> str | None:
        """Say once of a row why it is skipped: it is so in every epoch, and in every validation."""
        if event.reason in self._reasons:
            return None
        if len(self._reasons) < MOST_REASONS:
            self._reasons.add(event.reason)
        return f"[yellow]skipped[/] {escape(event.reason)}"

    def _tell(self, event: Event) -> None:
        if isinstance(event, COUNTED):
            left = self.state.seconds_left
            self.console.tell(event, seconds_left=None if left is None else round(left, 1))
        else:
            self.console.tell(event)

    def _print(self, line: str) -> None:
        self._printed = self.clock()
        if self.console.is_terminal:
            self.console.print(line, soft_wrap=True)
        else:
            # Paths stay whole, so that they are found in a file.
            self.console.print(wrap(Text.from_markup(line), self.console.width - 1, in_paths=False), soft_wrap=True)

    def _show_progress(self, event: Event) -> None:
        """Without a bar, print each new activity, and the progress if none was printed for a while."""
        if isinstance(event, Working) and self.state.newest is None:
            counted = f" {with_noun(event.total, 'row', commas=False)}" if event.total else ""
            self._print(f"{event.what}{counted} ...")
        elif isinstance(event, COUNTED) and self.clock() - self._printed >= SECONDS:
            self._print(write_line(self.state))

    def _show_start(self, event: Started) -> None:
        device = event.device
        n_devices = "device" if event.n_devices == 1 else f"{event.n_devices} devices, each"
        self._print(f"{n_devices}: {device.kind}, {escape(device.name)}, {format_bytes(device.memory_bytes)}")
        share = event.n_trainable / event.n_params
        counts = f"{format_count(event.n_trainable)} of {format_count(event.n_params)}"
        self._print(f"{event.model_type}: {counts} parameters trained ({share:.2%})")
        for names in event.adapted:
            self._print(f"  adapter on {escape(names)}")
        held_out = f", {event.n_valid_rows} to validate on" if event.n_valid_rows else ""
        resumed = f", going on after step {event.first_step}" if event.first_step else ""
        about = "about " if event.is_estimated else ""
        rows = (
            with_noun(event.n_rows, "row", commas=False)
            if event.n_rows is not None
            else f"rows streamed from {with_noun(event.n_files, 'file')}"
        )
        self._print(f"{rows}{held_out}; {about}{with_noun(event.n_steps, 'step', commas=False)}{resumed}")
        for source in event.sources:
            self._print(f"  {escape(describe_share(source))}")
        self._print(f"columns: {escape(describe_columns(event.columns))}")
        self._print(f"chat template: {escape(describe_template(event.template))}")
        self._print(f"features of images: {escape(describe_storage(event.features))}")
        if (head := describe_head(event.head)) is not None:
            self._print(f"head: {escape(head)}")

    def _write_report(self, event: Reported) -> str:
        width = self.console.width - 1
        if self.show_bar is None:
            return write_report(event, self.state.n_steps, self.state.seconds_left, width)
        return write_report(event, self.state.n_steps, None, width, has_bar=True)


def _write_note(event: Event) -> str | None:
    if isinstance(event, Warned | StoppedEarly):
        return _describe_warning(event.message if isinstance(event, Warned) else describe_early(event))
    if isinstance(event, Untrained):
        note = f"\n{_describe_warning(explain_guessing(event))}" if event.is_guessing else ""
        return f"{escape(describe_untrained(event))}{note}"
    if isinstance(event, Saved):
        why = "" if event.best is None else f", the best so far: {describe_best(event.best)}"
        return f"saved {escape(str(event.path))} after step {event.step}{why}"
    if isinstance(event, Generated) and event.done == event.total:
        return (
            f"accuracy {event.when} training: [bold]{event.accuracy:.1%}[/] of {event.total} held-out rows "
            f"(last: expected {escape(repr(event.expected))}, answered {escape(repr(event.found))})"
        )
    return None


def _describe_warning(message: str) -> str:
    return f"[yellow]note[/] {escape(message)}"


def describe_compilation(event: Compiling | Compiled) -> str:
    """Describe kernels that are being compiled, or were."""
    kernels = with_noun(event.n_kernels, "kernel", commas=False)
    if isinstance(event, Compiling):
        return f"compiling {kernels}, {event.n_workers} at a time"
    return f"compiled {kernels} in {event.seconds:.1f} s, kept in {escape(str(event.folder))}"


def describe_scores(event: Scored, n_steps: int | None = None) -> str:
    """Describe metrics with their intervals: "step 40  exact_match 0.95 (0.92 to 0.97)"."""
    found = [
        f"{escape(name)} [bold]{value.mean:.3f}[/]"
        + ("" if value.low is None or value.high is None else f" ({value.low:.3f} to {value.high:.3f})")
        + ("" if value.n == event.n_rows else f" over {with_noun(value.n, 'row', commas=False)}")
        for name, value in event.scores.items()
    ]
    return f"{_name_step(event.step, n_steps)}  {'  '.join(found)}"


def write_report(
    event: Reported, n_steps: int | None, seconds_left: float | None, width: int, *, has_bar: bool = False
) -> str:
    """Write a report in one line, without what metrics.jsonl alone may say where the line would be too long.

    Args:
        event: The report.
        n_steps: Steps of the whole run, if known.
        seconds_left: Remaining seconds, if they are to be printed.
        width: Columns that there are.
        has_bar: Whether a bar below the line shows the total of steps and the memory.
    """
    metrics = event.metrics
    step = _name_step(int(metrics["step"]), n_steps)
    if "valid_loss" in metrics:
        tokens = with_noun(int(metrics["valid_tokens"]), "token")
        rows = with_noun(int(metrics["valid_rows"]), "row", commas=False)
        return (
            f"{step}  [bold]valid loss {metrics['valid_loss']:.4f}[/] over "
            f"{tokens} of {rows}{_describe_rewards(metrics, 'valid_')}"
        )
    if "loss" not in metrics:
        return f"{step}  no row to learn from in {with_noun(int(metrics[PASSED]), 'step')}"
    parts = {
        "loss": f"loss {metrics['loss']:.4f}{_describe_rewards(metrics)}",
        "mean": f"mean {metrics['running_loss']:.4f}",
        "rate": f"lr {metrics['learning_rate']:.2e}",
        "norm": f"grad norm {metrics['grad_norm']:.3f}",
        "speed": f"{metrics['tokens_per_s']:,.0f} tokens/s",
        "memory": f"{metrics['peak_memory_gb']:.2f} GB",
        "left": "" if seconds_left is None else f"{format_seconds(seconds_left)} left",
    }
    line = ""
    for left_out in [None, *(BESIDE_A_BAR if has_bar else IN_A_PIPE)]:
        if left_out == "total":
            step = step.partition("/")[0]
        elif left_out is not None:
            del parts[left_out]
        line = "  ".join([step, *filter(None, parts.values())])
        if len(line) <= width:
            break
    return line


def _describe_rewards(metrics: Mapping[str, float | str], prefix: str = "") -> str:
    """Say by how much preferred answers are ahead, and in which share of pairs; nothing where none are compared."""
    margin, share = metrics.get(f"{prefix}{MARGINS}"), metrics.get(f"{prefix}{ACCURACIES}")
    said = "" if margin is None else f"  margin {margin:.3f}"
    return said if share is None else f"{said}  ahead in {share:.0%}"


def _name_step(step: int, n_steps: int | None) -> str:
    return f"step {step:>6}" if n_steps is None else f"step {step:>{len(str(n_steps))}}/{n_steps}"


@contextmanager
def open_view(console: Screen) -> Iterator[EventView]:
    """Make the view of a run on a console, with a progress bar while the `with` lasts if it is a terminal."""
    if not console.is_terminal or console.mode != "all":
        yield EventView(console)
        return
    state = ProgressState()

    def draw() -> Text:
        return Text(write_bar(state, console.width - 1, _find_peak(state)), no_wrap=True, overflow="crop")

    with Live(console=console, get_renderable=draw, refresh_per_second=PER_SECOND, transient=True) as live:
        yield EventView(console, state, show_bar=live.refresh)


def _find_peak(state: ProgressState) -> float:
    """Return the peak of MLX's memory in gigabytes; 0 before any array is computed."""
    if state.newest is None:
        return 0.0
    import mlx.core as mx

    return mx.get_peak_memory() / 1e9
