"""Where labels of points stand so that lines do not run through them. Pure."""

import itertools
from collections.abc import Sequence

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels from the upper left corner."""

ABOVE, BELOW = 0.9, 1.8
"""From a point to the baseline of its label, in heights of the text."""
LINE, DEPTH = 1.2, 0.3
"""From a line of text to the next, and from a baseline to what hangs below it."""
FARTHEST = 6
"""How many lines of text farther away a label may stand."""


def place_labels(
    widths: Sequence[float], points: Sequence[Point], lines: Sequence[Sequence[Point]], room: Box, size: float
) -> list[Point]:
    """Find a place for each label, as near to its point as can be.

    Args:
        widths: Of the labels, in pixels.
        points: What they belong to.
        lines: Corners of all lines that are drawn.
        room: Where labels may stand.
        size: Height of the text.

    Returns:
        The middle of each label's baseline.
    """
    segments = [pair for line in lines for pair in itertools.pairwise(line)]
    solid = [(x - size / 2, y - size / 2, x + size / 2, y + size / 2) for x, y in points]
    found: list[Point] = []
    for width, point in zip(widths, points, strict=True):
        places = _candidates(width, point, room, size)
        faults = [_count_faults(label_box(place, width, size), segments, solid) for place in places]
        # The nearest of the best.
        place = places[faults.index(min(faults))]
        solid.append(label_box(place, width, size))
        found.append(place)
    return found


def label_box(place: Point, width: float, size: float) -> Box:
    """Give where a label is whose baseline has its middle at a place."""
    x, y = place
    return (x - width / 2, y - size * 0.85, x + width / 2, y + size * DEPTH)


def overlaps(one: Box, other: Box) -> bool:
    """Whether two boxes have an area in common."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def crosses(box: Box, start: Point, end: Point) -> bool:
    """Whether a straight line runs through a box."""
    # The part of the line within the box on each axis, as shares of its length.
    first, last = 0.0, 1.0
    for low, high, begin, to in ((box[0], box[2], start[0], end[0]), (box[1], box[3], start[1], end[1])):
        if begin == to:
            if not low < begin < high:
                return False
            continue
        ends = sorted(((low - begin) / (to - begin), (high - begin) / (to - begin)))
        first, last = max(first, ends[0]), min(last, ends[1])
    return first < last


def _count_faults(box: Box, segments: Sequence[tuple[Point, Point]], solid: Sequence[Box]) -> int:
    """Count what is in the way of a label; a point or another label counts more than all lines."""
    n_crossing = sum(crosses(box, *segment) for segment in segments)
    return n_crossing + (len(segments) + 1) * sum(overlaps(box, other) for other in solid)


def _candidates(width: float, point: Point, room: Box, size: float) -> list[Point]:
    """Give places for a label, the nearest to its point first."""
    left, top, right, bottom = room
    x, y = point
    places = [
        (min(max(x + beside * (width + size), left + width / 2), right - width / 2), baseline)
        for away in (size * LINE * line for line in range(FARTHEST + 1))
        for beside in (0.0, -0.5, 0.5)
        for baseline in (y + size * BELOW + away, y - size * ABOVE - away)
        if top + size <= baseline <= bottom - size * DEPTH
    ]
    # A chart lower than a text has its label all the same.
    return places or [(min(max(x, left + width / 2), right - width / 2), max(top + size, y - size * ABOVE))]
