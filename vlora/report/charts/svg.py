"""Charts as inline SVG: colours come from the page's variables, so that they follow light and dark. Pure.

A page with charts needs `charts.css` besides.
"""

from collections.abc import Iterator
from html import escape

from ..page import visible
from .labels import Point
from .layout import N_STYLES, Dot, Layout, Stroke, Text, corners_of, dashes_of, shape_of


def draw_svg(layout: Layout, name: str) -> str:
    """Draw a chart as an element of a page.

    Args:
        layout: Where everything of it is.
        name: Its own among the charts of the page, a word.
    """
    body = "".join(_draw(layout))
    return (
        f'<svg class="chart" role="img" aria-labelledby="{name}-title {name}-text" width="{layout.width:g}" '
        f'height="{layout.height:g}" viewBox="0 0 {layout.width:g} {layout.height:g}">'
        f'<title id="{name}-title">{_write(layout.title)}</title>'
        f'<desc id="{name}-text">{_write(layout.description)}</desc>{body}</svg>'
    )


def _draw(layout: Layout) -> Iterator[str]:
    for place, (start, end) in reversed(list(enumerate(layout.grid))):
        kind = "axis" if place < 1 else "grid"
        yield f'<path class="{kind}" d="{_path((start, end))}"/>'
    for area in layout.areas:
        yield f'<path class="area" fill="{_colour(area.style)}" d="{_path(area.points)}Z"/>'
    yield from map(_draw_stroke, layout.strokes)
    yield from map(_draw_dot, layout.dots)
    yield from map(_draw_text, layout.texts)


def _draw_stroke(stroke: Stroke) -> str:
    dashes = dashes_of(stroke.style)
    broken = f' stroke-dasharray="{" ".join(f"{dash:g}" for dash in dashes)}"' if dashes else ""
    faint = " faint" if stroke.is_faint else ""
    return f'<path class="line{faint}" stroke="{_colour(stroke.style)}"{broken} d="{_path(stroke.points)}"/>'


def _draw_dot(dot: Dot) -> str:
    (x, y), colour = dot.at, _colour(dot.style)
    if dot.is_marked:
        return f'<circle class="best" stroke="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="7"/>'
    shape = shape_of(dot.style)
    if shape == "circle":
        return f'<circle fill="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>'
    if shape == "ring":
        return f'<circle class="line" stroke="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
    if shape == "cross":
        arms = _path(((x - 3.2, y - 3.2), (x + 3.2, y + 3.2))) + _path(((x - 3.2, y + 3.2), (x + 3.2, y - 3.2)))
        return f'<path class="line" stroke="{colour}" d="{arms}"/>'
    return f'<path fill="{colour}" d="{_path(corners_of(shape, dot.at, 3.6))}Z"/>'


def _draw_text(text: Text) -> str:
    x, y = text.at
    anchor = "" if text.anchor == "start" else f' text-anchor="{text.anchor}"'
    return f'<text class="{text.kind}" x="{x:.1f}" y="{y:.1f}"{anchor}>{_write(text.text)}</text>'


def _write(text: str) -> str:
    return escape(visible(text))


def _path(points: tuple[Point, ...]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _colour(style: int) -> str:
    return f"var(--chart-{style % N_STYLES})"
