"""Line charts: their lines, and the points that are drawn. Pure."""

import itertools
from collections.abc import Sequence

import attrs
import numpy as np

MOST_POINTS = 400
"""Most points of a line that are drawn; a screen has no room for more."""

WIDE_RATIO = 20.0
"""Ratio of the largest to the smallest value from which the axis is logarithmic."""


@attrs.frozen(kw_only=True)
class Line:
    """One line.

    Attributes:
        name: In the legend.
        xs: Ascending.
        ys: As many, finite.
        low: Lower ends of the values' intervals, as many; empty without intervals.
        high: Upper ends.
        is_faint: Drawn thinner, behind the others.
    """

    name: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    is_faint: bool = False


@attrs.frozen(kw_only=True)
class Mark:
    """A marked point.

    Attributes:
        x: Where it is.
        y: Where it is.
        text: Its label.
    """

    x: float
    y: float
    text: str


@attrs.frozen(kw_only=True)
class Chart:
    """A line chart.

    Attributes:
        title: What it shows.
        x_label: What the horizontal axis counts.
        y_label: The unit of the vertical axis; empty where the title says it.
        lines: Its lines; those without points are left out.
        marks: Points that are pointed out.
        is_log: Whether the vertical axis is logarithmic; None takes one where values are far apart and positive.
        from_zero: Whether the vertical axis begins at 0.
    """

    title: str
    lines: tuple[Line, ...]
    x_label: str = "step"
    y_label: str = ""
    marks: tuple[Mark, ...] = ()
    is_log: bool | None = None
    from_zero: bool = False

    @property
    def has_points(self) -> bool:
        """Whether there is anything to draw."""
        return any(line.xs for line in self.lines)

    @property
    def takes_log(self) -> bool:
        """Whether the vertical axis is logarithmic."""
        values = [value for line in self.lines for value in (*line.ys, *line.low, *line.high)]
        if not values or min(values) <= 0:
            return False
        return max(values) / min(values) >= WIDE_RATIO if self.is_log is None else self.is_log

    def describe(self) -> str:
        """Describe the lines in words, for people who cannot see them."""
        return ". ".join(_describe(line) for line in self.lines if line.xs)


def thin(xs: Sequence[float], ys: Sequence[float], most: int = MOST_POINTS) -> list[int]:
    """Choose the points of a line that are drawn: of each stretch the lowest and the highest, and both ends.

    Args:
        xs: Ascending.
        ys: As many.
        most: How many points are chosen at most.

    Returns:
        Their places, ascending.
    """
    count = len(xs)
    if count <= most:
        return list(range(count))
    values = np.asarray(ys, dtype=np.float64)
    edges = np.linspace(0, count, max(1, (most - 2) // 2) + 1).astype(int)
    chosen = {0, count - 1}
    for start, end in itertools.pairwise(edges):
        part = values[start:end]
        chosen |= {int(start + part.argmin()), int(start + part.argmax())}
    return sorted(chosen)


def thin_line(line: Line, most: int = MOST_POINTS) -> Line:
    """Drop points of a line that do not change its drawing."""
    places = thin(line.xs, line.ys, most)

    def choose(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(values[place] for place in places) if values else ()

    return attrs.evolve(line, xs=choose(line.xs), ys=choose(line.ys), low=choose(line.low), high=choose(line.high))


def _describe(line: Line) -> str:
    points = "1 point" if len(line.xs) == 1 else f"{len(line.xs):,} points"
    lowest = min(range(len(line.ys)), key=line.ys.__getitem__)
    highest = max(range(len(line.ys)), key=line.ys.__getitem__)
    return (
        f"{line.name}: {points}, {line.ys[0]:.4g} at {line.xs[0]:,g}, {line.ys[-1]:.4g} at {line.xs[-1]:,g}, "
        f"lowest {line.ys[lowest]:.4g} at {line.xs[lowest]:,g}, highest {line.ys[highest]:.4g} at {line.xs[highest]:,g}"
    )
