"""What a run prints as it goes on: a line for each event, and a bar below the lines on a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

import attrs
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ..events import (
    Compiled,
    Compiling,
    Event,
    Generated,
    Reported,
    Saved,
    Scored,
    Skipped,
    Started,
    StepReport,
    StoppedEarly,
    Warned,
)
from .screen import Screen
from .sentences import (
    describe_best,
    describe_columns,
    describe_early,
    describe_head,
    describe_storage,
    describe_template,
)
from .units import format_bytes, format_count


@attrs.define
class EventView:
    """Prints a run's events: plain lines; with a terminal, a bar below them.

    Attributes:
        console: Where they are printed.
        progress: Holds the bar; None without a terminal.
        task: The bar, once the run has started.
    """

    console: Screen
    progress: Progress | None
    task: TaskID | None = None

    def show(self, event: Event) -> None:
        """Print what there is to say of an event."""
        self.console.tell(event)
        if isinstance(event, Started):
            self._show_start(event)
        elif isinstance(event, StepReport):
            self._move_bar(event)
        elif isinstance(event, Reported) and {"loss", "valid_loss"} & set(event.metrics):
            # Rounds of answers have been shown answer by answer.
            self._print(_report_line(event, self.console.width if self.progress is not None else None))
        elif isinstance(event, Skipped):
            self._print(f"[yellow]skipped[/] {escape(event.reason)}")
        elif isinstance(event, Warned | StoppedEarly):
            self.warn(event.message if isinstance(event, Warned) else describe_early(event))
        elif isinstance(event, Compiling | Compiled):
            self._print(_describe_compilation(event))
        elif isinstance(event, Generated):
            self._show_answer(event)
        elif isinstance(event, Scored):
            self._print(describe_scores(event))
        elif isinstance(event, Saved):
            why = "" if event.best is None else f", the best so far: {describe_best(event.best)}"
            self._print(f"saved {escape(str(event.path))} after step {event.step}{why}")

    def warn(self, message: str) -> None:
        """Print that something went otherwise than meant."""
        self._print(f"[yellow]note[/] {escape(message)}")

    def _print(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)

    def _show_start(self, event: Started) -> None:
        device = event.device
        self._print(f"device: {device.kind}, {escape(device.name)}, {format_bytes(device.memory_bytes)}")
        share = event.n_trainable / event.n_params
        counts = f"{format_count(event.n_trainable)} of {format_count(event.n_params)}"
        self._print(f"{event.model_type}: {counts} parameters trained ({share:.2%})")
        for names in event.adapted:
            self._print(f"  adapter on {escape(names)}")
        held_out = f", {event.n_valid_rows} to validate on" if event.n_valid_rows else ""
        resumed = f", going on after step {event.first_step}" if event.first_step else ""
        about = "about " if event.is_estimated else ""
        self._print(f"{event.n_rows} rows{held_out}; {about}{event.n_steps} steps{resumed}")
        self._print(f"columns: {escape(describe_columns(event.columns))}")
        self._print(f"chat template: {escape(describe_template(event.template))}")
        self._print(f"features of images: {escape(describe_storage(event.features))}")
        if (head := describe_head(event.head)) is not None:
            self._print(f"head: {escape(head)}")
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


def _describe_compilation(event: Compiling | Compiled) -> str:
    if isinstance(event, Compiling):
        return f"compiling {event.n_kernels} kernels, {event.n_workers} at a time"
    return f"compiled {event.n_kernels} kernels in {event.seconds:.1f} s, kept in {escape(str(event.folder))}"


def describe_scores(event: Scored) -> str:
    """Say what metrics found, each with its interval: "step 40  exact_match 0.95 (0.92 to 0.97)"."""
    found = [
        f"{escape(name)} [bold]{value.mean:.3f}[/]"
        + ("" if value.low is None or value.high is None else f" ({value.low:.3f} to {value.high:.3f})")
        + ("" if value.n == event.n_rows else f" over {value.n} rows")
        for name, value in event.scores.items()
    ]
    return f"step {event.step:>6}  {'  '.join(found)}"


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
def open_view(console: Screen) -> Iterator[EventView]:
    """Give the view of a run on a console, with a bar while the `with` lasts if it is a terminal."""
    if not console.is_terminal or console.mode != "all":
        yield EventView(console, None)
        return
    columns = (
        BarColumn(bar_width=24),
        TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield EventView(console, progress)
