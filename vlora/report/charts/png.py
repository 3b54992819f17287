"""Charts as PNG with Pillow alone, drawn larger and scaled down for smooth edges."""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from .labels import Point
from .layout import N_STYLES, Dot, Layout, Stroke, Text, corners_of, dashes_of, shape_of

PAPER, INK, GRID, AXIS = "#ffffff", "#30363d", "#e3e6ea", "#7d8590"
COLOURS = ("#0b62c4", "#b3440c", "#1a7f37", "#7b3fc4", "#b0246b", "#57606a")
FAINT = ("#8fb8e6", "#dba88c", "#93c4a1", "#c1a4e3", "#dc98bb", "#b0b6bb")
AREAS = ("#d4e3f5", "#f2ddd3", "#d5e8da", "#e6dbf5", "#f1d7e4", "#e0e2e4")
"""Of lines, of thin ones and of intervals, on white."""

SHRINK = 2
"""Pixels drawn along each side of one that is kept."""

BORDER = 16
"""White around everything, in pixels of the layout."""

ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


def draw_png(layout: Layout, scale: float = 1.5) -> Image.Image:
    """Draw a chart as a picture.

    Args:
        layout: Where everything of it is.
        scale: Pixels of the picture for one of the layout.
    """
    zoom = scale * SHRINK
    picture = Image.new("RGB", (round(layout.width * zoom), round(layout.height * zoom)), PAPER)
    pen = ImageDraw.Draw(picture)
    for place, ends in reversed(list(enumerate(layout.grid))):
        pen.line(_zoom(ends, zoom), fill=AXIS if place < 1 else GRID, width=round(zoom))
    for area in layout.areas:
        pen.polygon(_zoom(area.points, zoom), fill=AREAS[area.style % N_STYLES])
    for stroke in layout.strokes:
        _draw_stroke(pen, stroke, zoom)
    for dot in layout.dots:
        _draw_dot(pen, dot, zoom)
    for text in layout.texts:
        _draw_text(pen, text, layout.size * zoom, zoom)
    return ImageOps.expand(picture.reduce(SHRINK), border=round(BORDER * scale), fill=PAPER)


def _draw_stroke(pen: ImageDraw.ImageDraw, stroke: Stroke, zoom: float) -> None:
    colours, width = (FAINT, 1.2) if stroke.is_faint else (COLOURS, 2.2)
    for part in _break(_zoom(stroke.points, zoom), [dash * zoom for dash in dashes_of(stroke.style)]):
        pen.line(part, fill=colours[stroke.style % N_STYLES], width=round(width * zoom), joint="curve")


def _break(points: Sequence[Point], dashes: Sequence[float]) -> Iterator[list[Point]]:
    """Divide a line into its dashes; one without any is whole."""
    if not dashes:
        yield list(points)
        return
    pattern = itertools.cycle(dashes)
    is_drawn, left, part = True, next(pattern), [points[0]]
    for start, end in itertools.pairwise(points):
        length = math.dist(start, end)
        gone = 0.0
        while length - gone > left:
            gone += left
            share = gone / length
            at = (start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share)
            if is_drawn:
                yield [*part, at]
            is_drawn, left, part = not is_drawn, next(pattern), [at]
        left -= length - gone
        part.append(end)
    if is_drawn and len(part) > 1:
        yield part


def _draw_dot(pen: ImageDraw.ImageDraw, dot: Dot, zoom: float) -> None:
    [at], colour = _zoom([dot.at], zoom), COLOURS[dot.style % N_STYLES]
    shape = shape_of(dot.style)
    if dot.is_marked:
        pen.circle(at, 7 * zoom, outline=colour, width=round(2.5 * zoom))
    elif shape == "circle":
        pen.circle(at, 3.2 * zoom, fill=colour)
    elif shape == "ring":
        pen.circle(at, 3.6 * zoom, outline=colour, width=round(1.8 * zoom))
    elif shape == "cross":
        (x, y), arm = at, 3.4 * zoom
        for ends in (((x - arm, y - arm), (x + arm, y + arm)), ((x - arm, y + arm), (x + arm, y - arm))):
            pen.line(ends, fill=colour, width=round(2 * zoom))
    else:
        pen.polygon(corners_of(shape, at, 3.8 * zoom), fill=colour)


def _draw_text(pen: ImageDraw.ImageDraw, text: Text, size: float, zoom: float) -> None:
    [at] = _zoom([text.at], zoom)
    is_title = text.kind == "title"
    font = _font(round(size * (1.17 if is_title else 1)))
    # The built-in font has one weight; a stroke makes it bold.
    stroke = {"title": (0.35, INK), "mark": (1.5, PAPER)}.get(text.kind, (0, INK))
    pen.text(
        at,
        text.text,
        fill=INK,
        font=font,
        anchor=ANCHORS[text.anchor],
        stroke_width=stroke[0] * zoom,
        stroke_fill=stroke[1],
    )


@functools.lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _zoom(points: Sequence[Point], zoom: float) -> list[Point]:
    return [(x * zoom, y * zoom) for x, y in points]
