"""Boxes that stand in answers: how far they overlap with those expected. Pure.

An overlap is a share of areas, and the same in all units. So neither the scale of a family's numbers nor the size of
the image is needed, as long as answer and expected answer are written in the same one: rows with `objects` are, and
answers of a model that learned from them.
"""

import re
from collections.abc import Sequence

from ..prediction import Prediction

HIT = 0.5
"""Overlap from which on a box counts as found."""

Box = tuple[float, float, float, float]
"""(x1, y1, x2, y2), in whatever units the text has."""

_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_PATTERNS = {
    # <loc0012><loc0034>...: y before x.
    "tokens, y first": re.compile(r"<loc(\d{4})>" * 4),
    "tokens": re.compile(r"<loc_(\d+)>" * 4),
    "numbers": re.compile(
        # [x1, y1, x2, y2] or (x1,y1),(x2,y2).
        rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]|\({_NUMBER},{_NUMBER}\)\s*,?\s*\({_NUMBER},{_NUMBER}\)"
    ),
}
CONVENTIONS = {
    "qwen2": "numbers",
    "qwen25": "numbers",
    "qwen3": "numbers",
    "internvl": "numbers",
    "deepseek": "numbers",
    "paligemma": "tokens, y first",
    "florence": "tokens",
}
"""Names of families' ways to write boxes (`BoxStyle.name`), to how they are read."""


def box_iou(prediction: Prediction) -> float | None:
    """Give the mean overlap (intersection over union) of boxes; a row that expects none is left out.

    Each expected box is matched with one of the answer, the largest overlaps first; boxes without a match count as 0.
    """
    overlaps = match_boxes(prediction)
    return None if overlaps is None else sum(overlaps) / len(overlaps)


def box_acc_50(prediction: Prediction) -> float | None:
    """Give the share of boxes with an overlap of 0.5 and more, matched as by `box_iou` (acc@0.5)."""
    overlaps = match_boxes(prediction)
    return None if overlaps is None else sum(overlap >= HIT for overlap in overlaps) / len(overlaps)


def match_boxes(prediction: Prediction) -> list[float] | None:
    """Give the overlaps of matched boxes, and 0 for every one without a match; None where none is expected."""
    way = CONVENTIONS.get(prediction.convention or "")
    ways = sorted(_PATTERNS, key=lambda name: name != way)
    expected: list[Box] = []
    for way in ways:
        if expected := read_boxes(prediction.expected, way):
            break
    else:
        return None
    found = read_boxes(prediction.answer, way)
    pairs = sorted(
        ((overlap(box, other), row, column) for row, box in enumerate(expected) for column, other in enumerate(found)),
        key=lambda pair: (-pair[0], *pair[1:]),
    )
    overlaps, rows, columns = [], set(), set()
    for value, row, column in pairs:
        if row not in rows and column not in columns:
            rows.add(row)
            columns.add(column)
            overlaps.append(value)
    return overlaps + [0.0] * (max(len(expected), len(found)) - len(overlaps))


def read_boxes(text: str, way: str) -> list[Box]:
    """Read the boxes of a text.

    Args:
        text: An answer.
        way: How it writes them, one of the values of `CONVENTIONS`.
    """
    boxes = []
    for match in _PATTERNS[way].finditer(text):
        first, second, third, fourth = (float(number) for number in match.groups() if number is not None)
        boxes.append((second, first, fourth, third) if way.endswith("y first") else (first, second, third, fourth))
    return boxes


def overlap(box: Sequence[float], other: Sequence[float]) -> float:
    """Divide the area that two boxes share by the area that they cover; boxes without an area cover nothing."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(each[2] - each[0]) * (each[3] - each[1]) for each in (box, other)]
    return width * height / (sum(areas) - width * height)
