"""Layout of a chart, shared by SVG and PNG. Pure."""

import math
from collections.abc import Iterator, Sequence

import attrs

from .chart import Chart, Line, thin_line
from .labels import Point, place_labels
from .ticks import Axis, make_axis

DASHES: tuple[tuple[float, ...], ...] = ((), (7, 4), (2, 3), (9, 3, 2, 3), (14, 4), (4, 2))
"""Dashes of lines, and shapes of their points below, so that the legend does not depend on colours."""

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")

N_STYLES = len(DASHES)

FEW_POINTS = 30
"""A line of so many points shows each of them."""

CHARACTER = 0.58
"""Mean width of a character, in heights of the text."""


@attrs.frozen(kw_only=True)
class Text:
    """A text.

    Attributes:
        at: Where its baseline begins, or its middle is, or it ends.
        text: What it says.
        anchor: "start", "middle" or "end".
        kind: "title", "label", "tick", "legend" or "mark".
        style: Of the line that it belongs to; None for none.
    """

    at: Point
    text: str
    anchor: str = "start"
    kind: str = "label"
    style: int | None = None


@attrs.frozen(kw_only=True)
class Stroke:
    """A line as it is drawn.

    Attributes:
        points: Its corners.
        style: Which colour and which dashes it has.
        is_faint: Whether it is drawn thinner.
    """

    points: tuple[Point, ...]
    style: int
    is_faint: bool = False


@attrs.frozen(kw_only=True)
class Area:
    """The intervals of a line's values.

    Attributes:
        points: The corners of the area.
        style: The line's.
    """

    points: tuple[Point, ...]
    style: int


@attrs.frozen(kw_only=True)
class Dot:
    """A point of a line.

    Attributes:
        at: Where it is.
        style: Which colour and which shape it has.
        is_marked: Whether it is pointed out.
    """

    at: Point
    style: int
    is_marked: bool = False


@attrs.frozen(kw_only=True)
class Layout:
    """A chart with all places in it.

    Attributes:
        width: In pixels.
        height: In pixels.
        size: Height of texts.
        title: What the chart shows.
        description: What its lines show, in words.
        grid: Lines at the ticks, the axes first.
        areas: Intervals.
        strokes: Lines, those in front last.
        dots: Points.
        texts: All that is written.
    """

    width: float
    height: float
    size: float
    title: str
    description: str
    grid: tuple[tuple[Point, Point], ...]
    areas: tuple[Area, ...]
    strokes: tuple[Stroke, ...]
    dots: tuple[Dot, ...]
    texts: tuple[Text, ...]


@attrs.frozen(kw_only=True)
class _Plane:
    """The plotting area of a chart.

    Attributes:
        left: Its place.
        top: Its place.
        right: Its place.
        bottom: Its place.
        x_axis: Its horizontal axis.
        y_axis: Its vertical axis.
    """

    left: float
    top: float
    right: float
    bottom: float
    x_axis: Axis
    y_axis: Axis

    def at(self, x: float, y: float) -> Point:
        """Return the place of values."""
        return (
            self.left + self.x_axis.place(x) * (self.right - self.left),
            self.bottom - self.y_axis.place(y) * (self.bottom - self.top),
        )


def lay_out(chart: Chart, width: float, height: float, size: float = 12.0) -> Layout:
    """Lay a chart out.

    Args:
        chart: What it shows; it has points.
        width: In pixels.
        height: In pixels.
        size: Height of its texts.
    """
    lines = [(style, thin_line(line)) for style, line in enumerate(chart.lines) if line.xs]
    strokes, dots, areas, texts = list[Stroke](), list[Dot](), list[Area](), list[Text]()
    texts.append(Text(at=(0, size * 1.2), text=chart.title, kind="title"))
    if chart.y_label:
        texts.append(Text(at=(width, size * 1.2), text=chart.y_label, anchor="end"))
    top = size * 1.9
    if len(chart.lines) > 1:
        top = _lay_out_legend(lines, width, size, top, (texts, strokes, dots))
    plane = _make_plane(chart, [line for _, line in lines], (top + size * 0.6, width, height), size)
    for style, line in sorted(lines, key=lambda found: not found[1].is_faint):
        corners = tuple(plane.at(x, y) for x, y in zip(line.xs, line.ys, strict=True))
        strokes.append(Stroke(points=corners, style=style, is_faint=line.is_faint))
        if len(corners) <= FEW_POINTS and not line.is_faint:
            dots += [Dot(at=corner, style=style) for corner in corners]
        if line.low and line.high:
            upper = [plane.at(x, y) for x, y in zip(line.xs, line.high, strict=True)]
            lower = [plane.at(x, y) for x, y in zip(line.xs, line.low, strict=True)]
            areas.append(Area(points=(*upper, *reversed(lower)), style=style))
    texts += _write_axes(chart, plane, size, height)
    marks = [plane.at(mark.x, mark.y) for mark in chart.marks]
    dots += [
        Dot(at=at, style=_style_of(chart, mark.x, mark.y), is_marked=True)
        for mark, at in zip(chart.marks, marks, strict=True)
    ]
    labels = [(mark.text, measure(mark.text, size)) for mark in chart.marks]
    room = (plane.left + size * 0.3, plane.top, plane.right, plane.bottom)
    places = place_labels([width for _, width in labels], marks, [stroke.points for stroke in strokes], room, size)
    texts += [
        Text(at=place, text=text, anchor="middle", kind="mark") for (text, _), place in zip(labels, places, strict=True)
    ]
    return Layout(
        width=width,
        height=height,
        size=size,
        title=chart.title,
        description=chart.describe(),
        grid=tuple(_grid(plane)),
        areas=tuple(areas),
        strokes=tuple(strokes),
        dots=tuple(dots),
        texts=tuple(texts),
    )


def dashes_of(style: int) -> tuple[float, ...]:
    """Return the dashes of a line; where colours repeat, the dashes differ."""
    return DASHES[(style + style // N_STYLES) % N_STYLES]


def shape_of(style: int) -> str:
    """Return the shape of a line's points; where colours repeat, the shapes differ."""
    return SHAPES[(style + style // N_STYLES) % N_STYLES]


def measure(text: str, size: float) -> float:
    """Estimate a text's width."""
    return len(text) * size * CHARACTER


def corners_of(shape: str, at: Point, radius: float) -> tuple[Point, ...]:
    """Give the corners of a square, a triangle or a diamond around a point."""
    x, y = at
    if shape == "square":
        side = radius * 0.85
        return ((x - side, y - side), (x + side, y - side), (x + side, y + side), (x - side, y + side))
    if shape == "triangle":
        return ((x, y - radius * 1.15), (x + radius * 1.1, y + radius * 0.85), (x - radius * 1.1, y + radius * 0.85))
    return ((x, y - radius * 1.2), (x + radius * 1.2, y), (x, y + radius * 1.2), (x - radius * 1.2, y))


def _lay_out_legend(
    lines: Sequence[tuple[int, Line]],
    width: float,
    size: float,
    top: float,
    drawn: tuple[list[Text], list[Stroke], list[Dot]],
) -> float:
    """Draw the legend in as many rows as necessary; return where it ends."""
    texts, strokes, dots = drawn
    sample, gap, row = size * 2.6, size * 0.5, size * 1.45
    x, y = 0.0, top
    for style, line in lines:
        name = shorten(line.name, int((width - sample - gap) / (size * CHARACTER)))
        needed = sample + gap + measure(name, size)
        if x and x + needed > width:
            x, y = 0.0, y + row
        middle = y + size * 0.6
        strokes.append(Stroke(points=((x, middle), (x + sample, middle)), style=style, is_faint=line.is_faint))
        if not line.is_faint:
            dots.append(Dot(at=(x + sample / 2, middle), style=style))
        texts.append(Text(at=(x + sample + gap, y + size * 0.95), text=name, kind="legend", style=style))
        x += needed + size * 1.3
    return y + row


def shorten(text: str, most: int) -> str:
    """Replace the middle of a text that is too long by an ellipsis."""
    if len(text) <= most:
        return text
    head = max(1, (most - 1) // 2)
    return f"{text[:head]}…{text[len(text) - max(0, most - 1 - head) :]}"


def _make_plane(chart: Chart, lines: Sequence[Line], place: tuple[float, float, float], size: float) -> _Plane:
    top, width, height = place
    bottom = height - size * 2.9
    values = [value for line in lines for value in (*line.ys, *line.low, *line.high)]
    steps = [x for line in lines for x in line.xs]
    room = max(2, int((bottom - top) / (size * 2.6)))
    y_axis = make_axis(values, room, is_log=chart.takes_log, from_zero=chart.from_zero)
    left = max((measure(label, size) for label in y_axis.labels), default=0.0) + size * 0.6
    longest = measure(f"{max(steps):,.0f}", size)
    # The last label's half is right of its tick.
    right = width - max(size * 0.5, longest / 2)
    x_axis = make_axis(steps, max(2, int((right - left) / (longest + size * 2.5))), is_whole=True)
    return _Plane(left=left, top=top, right=right, bottom=bottom, x_axis=x_axis, y_axis=y_axis)


def _grid(plane: _Plane) -> Iterator[tuple[Point, Point]]:
    yield (plane.left, plane.bottom), (plane.right, plane.bottom)
    yield (plane.left, plane.top), (plane.left, plane.bottom)
    for tick in plane.y_axis.ticks:
        _, y = plane.at(plane.x_axis.low, tick)
        yield (plane.left, y), (plane.right, y)


def _write_axes(chart: Chart, plane: _Plane, size: float, height: float) -> Iterator[Text]:
    for tick, label in zip(plane.y_axis.ticks, plane.y_axis.labels, strict=True):
        _, y = plane.at(plane.x_axis.low, tick)
        yield Text(at=(plane.left - size * 0.5, y + size * 0.35), text=label, anchor="end", kind="tick")
    for tick, label in zip(plane.x_axis.ticks, plane.x_axis.labels, strict=True):
        x, _ = plane.at(tick, plane.y_axis.low)
        yield Text(at=(x, plane.bottom + size * 1.25), text=label, anchor="middle", kind="tick")
    middle = (plane.left + plane.right) / 2
    yield Text(at=(middle, height - size * 0.3), text=chart.x_label, anchor="middle")


def _style_of(chart: Chart, x: float, y: float) -> int:
    """Find the line of a point."""
    return next(
        (
            style
            for style, line in enumerate(chart.lines)
            if any(math.isclose(x, at) and math.isclose(y, value) for at, value in zip(line.xs, line.ys, strict=True))
        ),
        0,
    )
