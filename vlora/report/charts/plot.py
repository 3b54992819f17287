"""Charts as text: each line is drawn with a letter of its own. Pure."""

import itertools
from collections.abc import Sequence

from .chart import Chart, Line
from .ticks import Axis, make_axis

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SEVERAL = "*"
"""Stands where several lines meet."""


def letter_of(number: int) -> str:
    """Return the letter of a line, which is unique among 26 lines."""
    return LETTERS[number % len(LETTERS)]


def draw_text(chart: Chart, width: int, height: int) -> list[str]:
    """Draw a chart.

    Args:
        chart: What it shows; it has points.
        width: In characters.
        height: Lines of its plane; one more says the steps.

    Returns:
        Its lines, none longer than `width`.
    """
    values = [value for line in chart.lines for value in line.ys]
    steps = [x for line in chart.lines for x in line.xs]
    y_axis = make_axis(values, max(2, height // 3), is_log=chart.takes_log, from_zero=chart.from_zero)
    x_axis = make_axis(steps, max(2, width // 16), is_whole=True)
    margin = max(map(len, y_axis.labels), default=0)
    n_columns = width - margin - 2
    plane = [[" "] * n_columns for _ in range(height)]
    for number, line in enumerate(chart.lines):
        for row, column in _trace(line, y_axis, x_axis, height, n_columns):
            cell = plane[height - 1 - row]
            cell[column] = letter_of(number) if cell[column] == " " else SEVERAL
    labels = {height - 1 - _place(y_axis, tick, height): label for tick, label in _ticks(y_axis)}
    lines = [f"{labels.get(row, ''):>{margin}} |{''.join(cells)}".rstrip() for row, cells in enumerate(plane)]
    return [*lines, _write_steps(x_axis, margin + 2, n_columns)]


def _trace(line: Line, y_axis: Axis, x_axis: Axis, height: int, n_columns: int) -> set[tuple[int, int]]:
    """Return (row, column) of all cells of a line: its points and the segments between them."""
    points = zip(line.xs, line.ys, strict=True)
    places = [(_place(x_axis, x, n_columns), _place(y_axis, y, height)) for x, y in points]
    found = {(row, column) for column, row in places}
    for (left, start), (right, end) in itertools.pairwise(places):
        for column in range(left + 1, right):
            found.add((round(start + (end - start) * (column - left) / (right - left)), column))
    return found


def _place(axis: Axis, value: float, count: int) -> int:
    return min(count - 1, max(0, round(axis.place(value) * (count - 1))))


def _ticks(axis: Axis) -> Sequence[tuple[float, str]]:
    return list(zip(axis.ticks, axis.labels, strict=True))


def _write_steps(axis: Axis, margin: int, n_columns: int) -> str:
    """Write the steps that have room below the plotting area."""
    written = " " * margin
    for tick, label in _ticks(axis):
        start = margin + _place(axis, tick, n_columns) - len(label) // 2
        start = max(margin, min(start, margin + n_columns - len(label)))
        if start > len(written.rstrip()) or not written.strip():
            written = f"{written.rstrip():<{start}}{label}"
    return written.rstrip()
