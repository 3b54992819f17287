"""The progress line at the bottom of a terminal, fitted to its width. Pure."""

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

from ...system.nouns import with_noun
from .state import DONE, STOPPED, TRAINING, ProgressState

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
PER_SECOND = 8
"""Frames of the spinner."""

BAR, SHORT_BAR, WIDE = 24, 12, 100
"""Width of a bar, its width in a narrow terminal, and the width below which a terminal is narrow; in columns."""


def format_seconds(seconds: float) -> str:
    """Write a time: "0:05", "12:34", "1:02:03", "2 days 3:04:05"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    written = f"{hours}:{minutes:02}:{rest:02}" if hours or days else f"{minutes}:{rest:02}"
    return f"{with_noun(days, 'day', commas=False)} {written}" if days else written


def write_bar(state: ProgressState, width: int, memory_gb: float = 0.0) -> str:
    """Write the progress line: a bar where the total is known, else a spinner with the elapsed time.

    Args:
        state: How far it is.
        width: The terminal's width in columns.
        memory_gb: The peak of the memory in use; left out if 0.
    """
    if state.total is None or not state.total:
        frame = SPINNER[int(state.elapsed * PER_SECOND) % len(SPINNER)]
        return _fit([f"{frame} {state.what}", format_seconds(state.elapsed)], width)
    counted = f"{state.done}/{state.total}"
    left = "" if state.seconds_left is None else f"{format_seconds(state.seconds_left)} left"
    if state.what != TRAINING:
        # The first answers come together: meanwhile the time that passes shows that the run does not stand still.
        is_waiting = not state.done and state.what not in (DONE, STOPPED)
        passed = format_seconds(state.elapsed) if is_waiting else ""
        return _with_bar(state, [f"{state.what} {counted}", left or passed], width)
    assert state.newest is not None  # noqa: S101 - it trains
    step = state.newest
    speed = f"{step.tokens / step.step_s:,.0f} tokens/s" if step.step_s else ""
    memory = f"{memory_gb:.2f} GB" if memory_gb else ""
    return _with_bar(state, [f"step {counted}", left, f"loss {step.loss:.4f}", speed, memory], width)


def write_line(state: ProgressState) -> str:
    """Write how far a counted activity is, for where there is no bar."""
    left = "" if state.seconds_left is None else f", about {format_seconds(state.seconds_left)} left"
    what = "step" if state.what == TRAINING else state.what
    return f"{what} {state.done}/{state.total}{left}"


def _with_bar(state: ProgressState, parts: Sequence[str], width: int) -> str:
    length = BAR if width >= WIDE else SHORT_BAR
    text = _fit(parts, width - length - 1)
    full = round(length * min(1.0, state.done / (state.total or 1)))
    return f"{'━' * full}{'─' * (length - full)} {text}"


def _fit(parts: Sequence[str], width: int) -> str:
    """Join the first parts that fit into the width."""
    line = ""
    for part in filter(None, parts):
        longer = f"{line}  {part}" if line else part
        if line and cell_len(longer) > width:
            break
        line = longer
    return line if cell_len(line) <= width else set_cell_size(line, max(0, width)).rstrip()
