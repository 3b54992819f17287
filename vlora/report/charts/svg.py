"""Charts as inline SVG: colours come from the page's variables, so that they follow light and dark. Pure."""

from collections.abc import Iterator
from html import escape

from .layout import DASHES, N_STYLES, SHAPES, Dot, Layout, Point, Stroke, Text, corners_of

CSS = """
.chart { display: block; max-width: 100%; height: auto; overflow: visible; }
.chart text { fill: var(--chart-text); font-family: inherit; font-size: 12px; font-variant-numeric: tabular-nums; }
.chart .title { font-size: 14px; font-weight: 600; }
.chart .legend, .chart .mark { font-weight: 500; }
.chart .mark { paint-order: stroke; stroke: var(--chart-paper); stroke-width: 3px; }
.chart .grid { stroke: var(--chart-grid); stroke-width: 1; fill: none; }
.chart .axis { stroke: var(--chart-axis); stroke-width: 1; fill: none; }
.chart .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.chart .faint { stroke-width: 1; opacity: 0.6; }
.chart .area { stroke: none; opacity: 0.18; }
.chart .best { fill: none; stroke-width: 2.5; }
:root {
  --chart-paper: #ffffff; --chart-text: #30363d; --chart-grid: #e3e6ea; --chart-axis: #7d8590;
  --chart-0: #0b62c4; --chart-1: #b3440c; --chart-2: #1a7f37; --chart-3: #7b3fc4; --chart-4: #b0246b;
  --chart-5: #57606a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --chart-paper: #14171c; --chart-text: #d6dbe1; --chart-grid: #2e343c; --chart-axis: #848d97;
    --chart-0: #79b8ff; --chart-1: #ffab70; --chart-2: #7ee787; --chart-3: #d2a8ff; --chart-4: #ff9bce;
    --chart-5: #c9d1d9;
  }
}
"""
"""What a page with charts needs besides; the colours of lines have a contrast of 4.5 and more on its paper."""


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
        f'<title id="{name}-title">{escape(layout.title)}</title>'
        f'<desc id="{name}-text">{escape(layout.description)}</desc>{body}</svg>'
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
    dashes = DASHES[stroke.style % N_STYLES]
    broken = f' stroke-dasharray="{" ".join(f"{dash:g}" for dash in dashes)}"' if dashes else ""
    faint = " faint" if stroke.is_faint else ""
    return f'<path class="line{faint}" stroke="{_colour(stroke.style)}"{broken} d="{_path(stroke.points)}"/>'


def _draw_dot(dot: Dot) -> str:
    (x, y), colour = dot.at, _colour(dot.style)
    if dot.is_marked:
        return f'<circle class="best" stroke="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="7"/>'
    shape = SHAPES[dot.style % N_STYLES]
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
    return f'<text class="{text.kind}" x="{x:.1f}" y="{y:.1f}"{anchor}>{escape(text.text)}</text>'


def _path(points: tuple[Point, ...]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _colour(style: int) -> str:
    return f"var(--chart-{style % N_STYLES})"
