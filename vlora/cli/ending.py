"""The last lines of a run: rows left out, its files, and the commands that ask the trained model."""

from collections.abc import Callable

from rich.text import Text

from ..events import FeatureCounts, Finished
from ..output.paths import REPORT_NAME
from ..recipe.schema import Recipe
from ..report.run.commands import ask_command
from ..system.nouns import with_noun
from .screen import Screen
from .sentences import describe_choice, describe_device, describe_use
from .units import format_bytes
from .wrapping import wrap


def show_end(event: Finished, recipe: Recipe, console: Screen, go_on: str) -> None:
    """Print the last lines of a run: rows left out, its files, and the command for what comes next.

    Args:
        event: The run's last.
        recipe: What was carried out.
        console: Where to print.
        go_on: The command that resumes the run.
    """

    def say(line: str) -> None:
        text = Text(line)
        console.print(text if console.is_terminal else wrap(text, console.width - 1, in_paths=False), soft_wrap=True)

    _show_left_out(event, say, "their reasons stand above" if console.mode == "all" else "`inspect` says why")
    if event.features is not None and (line := _features_line(event.features)):
        say(line)
    if event.n_traces:
        shapes = "1 shape of batches was" if event.n_traces == 1 else f"{event.n_traces} shapes of batches were"
        say(f"{shapes} traced, in {event.trace_s:.1f} s")
    say(f"metrics: {event.metrics}")
    if recipe.output.report and (report := event.metrics.with_name(REPORT_NAME)).is_file():
        say(f"report: {report}")
    if event.best is not None and (event.best.path is not None or event.best.step < event.step):
        say(describe_choice(event.best, event.step))
    if not event.is_complete:
        without = f", without {' and '.join(event.left_off)}" if event.left_off else ""
        say(f"stopped after step {event.step} of {event.n_steps}{without}; this goes on:\n  {go_on}")
        return
    if recipe.data.chat_template is not None:
        say(
            "mlx-vlm's own programs know nothing of data.chat_template and ask in another layout than was trained; "
            "eval.answer_rows asks in it"
        )
    _show_commands(event, say)


def _show_commands(event: Finished, say: Callable[[str], None]) -> None:
    """Print the commands that ask the last and the best model, or why they cannot be asked."""
    if event.unasked is not None:
        say(f"the trained model {event.unasked}")
        return
    if event.config_differs_upstream:
        say(
            f"mlx-vlm's own programs read another rotary embedding from the config.json of {event.model} than "
            "transformers and vlora do, or fail: what this prints is then not what was trained"
        )
    if event.difference is not None:
        say(f"mlx-vlm generates with a model that differs from the one that was trained: {event.difference}")
    best = event.best
    if best is None or best.path is None or best.step == event.step:
        say(f"ask it:\n  {ask_command(event)}")
        return
    say(f"ask the best one:\n  {ask_command(event, best.path)}")
    say(f"ask the last one:\n  {ask_command(event)}")


def _show_left_out(event: Finished, say: Callable[[str], None], why: str) -> None:
    """Print how much was learned of each source and on each device, and how many rows were skipped and cut.

    Args:
        event: The run's last.
        say: Prints a line.
        why: Where the reasons of skipped rows are.
    """
    if event.sources:
        say("learned of each source:\n" + "\n".join(f"  {describe_use(use)}" for use in event.sources))
    if event.devices:
        for rank, use in enumerate(event.devices):
            say(f"device {rank}: {describe_device(use)}")
    if event.n_skipped:
        say(f"rows skipped, in all epochs together: {event.n_skipped}; {why}")
    if event.n_passed:
        say(f"steps passed over, since none of their rows can be learned from: {event.n_passed:,} of {event.step:,}")
    if event.cuts.n_rows:
        losses = event.cuts.describe_losses()
        say(f"rows cut by data.max_seq_length, in all epochs together: {event.cuts.n_rows}; {losses}")


def _features_line(counts: FeatureCounts) -> str:
    total = counts.n_memory + counts.n_disk + counts.n_computed
    if not total:
        return ""
    return (
        f"features of {with_noun(total, 'image')}: {counts.n_memory:,} from memory, {counts.n_disk:,} from disk, "
        f"{counts.n_computed:,} computed; kept now: {format_bytes(counts.memory_bytes)} in memory, "
        f"{format_bytes(counts.disk_bytes)} on disk"
    )
