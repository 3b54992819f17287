"""Nothing of a chart is drawn outside of it, no texts lie on one another, and styles do without colours."""

import itertools

import pytest

from vlora.report.charts.chart import Chart, Line, Mark
from vlora.report.charts.layout import (
    DASHES,
    FEW_POINTS,
    N_STYLES,
    SHAPES,
    Layout,
    Text,
    corners_of,
    dashes_of,
    lay_out,
    measure,
    shape_of,
    shorten,
)

STEPS = tuple(range(0, 1000, 10))


def make_chart(n_lines: int = 3, n_points: int = 100, scale: float = 1.0) -> Chart:
    """Make a chart of falling lines whose lowest point is pointed out."""
    lines = tuple(
        Line(
            name=f"run {number} of this chart",
            xs=STEPS[:n_points],
            ys=tuple(scale * (1 + number + 100 / (step + 20)) for step in STEPS[:n_points]),
        )
        for number in range(n_lines)
    )
    mark = Mark(x=lines[0].xs[-1], y=lines[0].ys[-1], text="best 1.0981 at step 990")
    return Chart(title="Loss", y_label="nats", lines=lines, marks=(mark,))


def box(text: Text, size: float) -> tuple[float, float, float, float]:
    """Give where a text is, as wide as it is taken to be."""
    width = measure(text.text, size)
    left = text.at[0] - {"start": 0, "middle": width / 2, "end": width}[text.anchor]
    return left, text.at[1] - size * 0.75, left + width, text.at[1] + size * 0.2


def overlapping(layout: Layout, kinds: set[str]) -> list[tuple[str, str]]:
    """List texts that lie on one another."""
    texts = [(text, box(text, layout.size)) for text in layout.texts if text.kind in kinds]
    return [
        (one.text, other.text)
        for (one, a), (other, b) in itertools.combinations(texts, 2)
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]


@pytest.mark.parametrize("size", [(340, 240), (360, 220), (800, 460)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("n_lines", [1, 3, 8])
def test_everything_is_inside_and_apart(size: tuple[int, int], scale: float, n_lines: int) -> None:
    """Points and texts, of small and of large numbers; axes, legend and title do not touch."""
    layout = lay_out(make_chart(n_lines, scale=scale), *size)

    places = [point for stroke in layout.strokes for point in stroke.points] + [dot.at for dot in layout.dots]
    for text in layout.texts:
        left, top, right, bottom = box(text, layout.size)
        places += [(left, top), (right, bottom)]
    assert all(-0.5 <= x <= size[0] + 0.5 and -0.5 <= y <= size[1] + 0.5 for x, y in places)
    assert overlapping(layout, {"title", "label", "tick", "legend"}) == []


def test_a_line_of_few_points_shows_each() -> None:
    """Of many it is a line alone, but for the point that is pointed out."""
    few = [dot for dot in lay_out(make_chart(1, FEW_POINTS), 360, 220).dots if not dot.is_marked]
    many = [dot for dot in lay_out(make_chart(1, FEW_POINTS + 1), 360, 220).dots if not dot.is_marked]

    assert (len(few), len(many)) == (FEW_POINTS, 0)


def test_the_legend_shows_each_lines_style() -> None:
    """A stroke and a point of its own, and no two lines are broken in the same way or have the same shape."""
    layout = lay_out(make_chart(3), 360, 260)

    legend = [text for text in layout.texts if text.kind == "legend"]
    assert [text.text for text in legend] == [line.name for line in make_chart(3).lines]
    assert len(set(DASHES)) == len(set(SHAPES)) == N_STYLES
    assert len({(style % N_STYLES, dashes_of(style), shape_of(style)) for style in range(36)}) == 36
    for text in legend:
        samples = [stroke for stroke in layout.strokes if stroke.style == text.style and len(stroke.points) == 2]
        [sample] = samples
        assert abs(sample.points[0][1] - text.at[1]) < layout.size


def test_one_line_needs_no_legend() -> None:
    """The title says what it is."""
    assert not [text for text in lay_out(make_chart(1), 360, 220).texts if text.kind == "legend"]


def test_a_mark_stands_on_its_line() -> None:
    """In its style, where its values are."""
    chart = make_chart(3)
    layout = lay_out(chart, 800, 460)

    [mark] = [dot for dot in layout.dots if dot.is_marked]
    [line] = [stroke for stroke in layout.strokes if stroke.style == 0 and len(stroke.points) > 2]
    assert mark.style == 0
    assert mark.at == pytest.approx(line.points[-1])


def test_intervals_lie_around_their_line() -> None:
    """Upper ends in order, lower ones back."""
    line = Line(name="a", xs=(1, 2, 3), ys=(5, 6, 7), low=(4, 5, 6), high=(6, 7, 8))
    layout = lay_out(Chart(title="a", lines=(line,)), 360, 220)

    [area], [stroke] = layout.areas, layout.strokes
    assert len(area.points) == 6
    for place, (x, y) in enumerate(stroke.points):
        assert area.points[place][0] == area.points[5 - place][0] == x
        assert area.points[place][1] < y < area.points[5 - place][1]


@pytest.mark.parametrize("shape", ["square", "triangle", "diamond"])
def test_shapes_are_around_their_point(shape: str) -> None:
    """Corners on all sides of it."""
    corners = corners_of(shape, (10, 20), 4)

    assert min(x for x, _ in corners) < 10 < max(x for x, _ in corners)
    assert min(y for _, y in corners) < 20 < max(y for _, y in corners)


def test_long_names_are_shortened() -> None:
    """Both ends stay: names of runs differ there."""
    assert shorten("runs/first/adapters-of-a-long-name-7", 16) == "runs/fi…g-name-7"
    assert shorten("runs/first", 16) == "runs/first"
