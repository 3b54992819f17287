"""Histograms as inline SVG, in the colours of the page. Pure."""

import math
from collections.abc import Iterator, Sequence

import attrs
import numpy as np
from markupsafe import Markup

WIDTH, HEIGHT = 352, 190
"""Width and height in pixels: two fit side by side on a wide page, and one fits a narrow page unscaled."""
LEFT, RIGHT, TOP, GROUND = 8, 8, 24, 150
"""Where bars stand; the title is above them, and below them the axis."""
LEAST_HEIGHT = 1.5
"""Pixels of a bar that has a value."""
MOST_BARS = 24
NICE = (1, 2, 2.5, 5, 10)
"""Widths of bars, times powers of ten."""


@attrs.frozen(kw_only=True)
class Bins:
    """Values, counted.

    Attributes:
        edges: Of the bars; one more than there are bars.
        counts: Values in each: the lower edge is of the bar, the upper one of the next.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]


def count_values(values: Sequence[float], *, whole: bool = True) -> Bins:
    """Count values in bars whose edges are round numbers.

    Args:
        values: At least one.
        whole: They are whole numbers, and a bar is at least 1 wide.
    """
    found = np.asarray(values, np.float64)
    low, high = float(found.min()), float(found.max())
    step = _nice((high - low) / (MOST_BARS - 2) or (1.0 if whole else 0.01))
    step = max(1.0, round(step)) if whole else step
    first = math.floor(low / step)
    # The highest value lies within the last bar, and not on its edge.
    n_bars = math.floor(high / step) - first + 1
    bars = np.clip(np.floor(found / step).astype(np.int64) - first, 0, n_bars - 1)
    counts = np.bincount(bars, minlength=n_bars)
    edges = tuple(round((first + number) * step, 10) for number in range(n_bars + 1))
    return Bins(edges=edges, counts=tuple(counts.tolist()))


def _nice(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in NICE if factor * power >= step * (1 - 1e-9))


def draw_histogram(
    values: Sequence[float], title: str, unit: str, *, whole: bool = True, limit: float | None = None
) -> Markup:
    """Draw a histogram; a sentence if all values are equal, and empty if there are none.

    Args:
        values: The values.
        title: What they are.
        unit: What is counted along the axis ("tokens", "%").
        whole: They are whole numbers.
        limit: A value to mark with a line, if values are near; larger ones are cut.
    """
    if not len(values):
        return Markup()
    if min(values) == max(values):
        alike = Markup('<p class="alike"><strong>{}</strong><br>{} {} in all {:,}</p>')
        return alike.format(title, _write(min(values)), unit, len(values))
    bins, middle = count_values(values, whole=whole), float(np.median(np.asarray(values, np.float64)))
    span = f"from {_write(min(values))} to {_write(max(values))}"
    about = f"{title}: {len(values):,} values {span}, median {_write(middle)}"
    low, high = bins.edges[0], bins.edges[-1]
    opening = Markup('<svg class="histogram" role="img" width="{0}" height="{1}" viewBox="0 0 {0} {1}">')
    parts = [
        opening.format(WIDTH, HEIGHT) + Markup("<title>{}</title>").format(about),
        _text(LEFT, 14, "start", title, "name"),
        *_draw_bars(bins, unit),
        Markup('<path d="M{} {}H{}"/>').format(LEFT, GROUND, WIDTH - RIGHT),
    ]
    if limit is not None and low < limit < high:
        x = LEFT + (limit - low) * _scale(bins)
        parts.append(Markup('<path class="limit" d="M{:.1f} {}V{}"/>').format(x, TOP, GROUND))
        anchor, away = ("end", -4) if x > WIDTH / 2 else ("start", 4)
        parts.append(_text(x + away, TOP + 10, anchor, f"limit {_write(limit)}", "limit"))
    parts.append(_text(LEFT, GROUND + 15, "start", _write(low)))
    parts.append(_text(WIDTH - RIGHT, GROUND + 15, "end", f"{_write(high)} {unit}"))
    note = f"median {_write(middle)}, tallest bar {max(bins.counts):,}"
    parts.append(_text(WIDTH / 2, GROUND + 31, "middle", note))
    return Markup().join([*parts, Markup("</svg>")])


def _draw_bars(bins: Bins, unit: str) -> Iterator[Markup]:
    tallest, scale = max(bins.counts), _scale(bins)
    bar = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>')
    for left, right, count in zip(bins.edges, bins.edges[1:], bins.counts, strict=False):
        height = max((GROUND - TOP) * count / tallest, LEAST_HEIGHT * (count > 0))
        wide = max(1.0, (right - left) * scale - 1)
        about = f"{_write(left)} to {_write(right)} {unit}: {count:,}"
        yield bar.format(LEFT + (left - bins.edges[0]) * scale, GROUND - height, wide, height, about)


def _scale(bins: Bins) -> float:
    """Give the pixels of one unit along the axis."""
    return (WIDTH - LEFT - RIGHT) / (bins.edges[-1] - bins.edges[0])


def _text(x: float, y: float, anchor: str, text: str, kind: str = "tick") -> Markup:
    template = Markup('<text class="{}" x="{:.1f}" y="{}" text-anchor="{}">{}</text>')
    return template.format(kind, x, y, anchor, text)


def _write(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"
