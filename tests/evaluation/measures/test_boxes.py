"""Boxes in answers, as each family writes them, and their overlaps beside pycocotools."""

import pytest

from vlora.data.format import boxes as styles
from vlora.evaluation.measures.boxes import CONVENTIONS, box_acc_50, box_iou, overlap, read_boxes
from vlora.evaluation.prediction import Prediction

STYLES = [style for style in vars(styles).values() if isinstance(style, styles.BoxStyle)]

# Two boxes and their overlap, as `pycocotools.mask.iou` 2.0.11 gives it.
OVERLAPS = [
    ([0, 0, 10, 10], [0, 0, 10, 10], 1.0),
    ([0, 0, 10, 10], [5, 5, 15, 15], 0.142857143),
    ([0, 0, 10, 10], [10, 10, 20, 20], 0.0),
    ([0, 0, 10, 10], [2, 2, 8, 8], 0.36),
    ([100, 100, 300, 200], [150, 90, 350, 180], 0.461538462),
    ([12.5, 7.25, 99.75, 88], [10, 10, 100, 90], 0.914725426),
    ([0, 0, 1000, 1000], [250, 250, 750, 750], 0.25),
    ([-5, -5, 5, 5], [0, 0, 10, 10], 0.142857143),
    ([10, 20, 30, 40], [10, 20, 30, 41], 0.952380952),
    ([1, 1, 2, 2], [1.5, 1, 2.5, 2], 0.333333333),
    ([0, 0, 10, 10], [20, 20, 30, 30], 0.0),
    ([3, 4, 3, 9], [0, 0, 10, 10], 0.0),
    ([0, 0, 999, 999], [1, 1, 1000, 1000], 0.996005992),
    ([5, 5, 6, 600], [5, 5, 600, 6], 0.000841043),
    ([0.1, 0.2, 0.3, 0.4], [0.2, 0.2, 0.4, 0.4], 0.333333333),
    ([217, 301, 540, 777], [220, 300, 538, 790], 0.956814159),
]


@pytest.mark.parametrize(("box", "other", "value"), OVERLAPS)
def test_overlap(box: list[float], other: list[float], value: float) -> None:
    """Whichever comes first, and in whatever units."""
    assert overlap(box, other) == pytest.approx(value, abs=1e-9)
    assert overlap(other, box) == pytest.approx(value, abs=1e-9)
    assert overlap([3 * each for each in box], [3 * each for each in other]) == pytest.approx(value, abs=1e-9)


def test_every_family_has_a_convention() -> None:
    """What vlora writes in a row is read in an answer."""
    assert sorted(style.name for style in STYLES) == sorted(CONVENTIONS)


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_boxes_are_read_as_they_are_written(style: styles.BoxStyle) -> None:
    """By each family's own writer, among text, several of them."""
    text = f"The {style.write_name('cat')} is at {style.write_box([1, 20, 300, 400])}, {style.write_box([5, 6, 7, 8])}."

    assert read_boxes(text, CONVENTIONS[style.name]) == [(1, 20, 300, 400), (5, 6, 7, 8)]
    prediction = Prediction(row="r:1", expected=text, answer=text, convention=style.name)
    assert box_iou(prediction) == 1.0
    assert box_iou(Prediction(row="r:1", expected=text, answer=text)) == 1.0


@pytest.mark.parametrize(
    ("expected", "answer", "iou", "hits"),
    [
        ("[0, 0, 10, 10]", "[0, 0, 10, 10]", 1.0, 1.0),
        ("[0, 0, 10, 10]", "[0,0,10,6]", 0.6, 1.0),
        ("[0, 0, 10, 10]", "[0, 0, 10, 5]", 0.5, 1.0),
        ("[0, 0, 10, 10]", "[0, 0, 10, 4]", 0.4, 0.0),
        ("[0, 0, 10, 10]", "(0,0),(10,10)", 1.0, 1.0),
        ("[0, 0, 10, 10]", '```json\n[{"bbox_2d": [0, 0, 10, 10], "label": "猫"}]\n```', 1.0, 1.0),
        ("[0, 0, 10, 10]", "", 0.0, 0.0),
        ("[0, 0, 10, 10]", "there is none", 0.0, 0.0),
        ("[0, 0, 10, 10]", "[10, 10, 0, 0]", 0.0, 0.0),
        ("[0, 0, 10, 10]", "[0, 0, 10]", 0.0, 0.0),
        ("[0, 0, 10, 10]", "[0, 0, 10, 10] [0, 0, 10, 10]", 0.5, 0.5),
        ("[0, 0, 10, 10] [20, 20, 30, 30]", "[20, 20, 30, 30]", 0.5, 0.5),
        ("[0, 0, 10, 10] [20, 20, 30, 30]", "[20, 20, 30, 30], [0, 0, 10, 10]", 1.0, 1.0),
        ("[0, 0, 10, 10] [0, 0, 10, 5]", "[0, 0, 10, 5] [0, 0, 10, 9]", 0.95, 1.0),
        ("[0.1, 0.2, 0.3, 0.4]", "[0.1, 0.2, 0.3, 0.4]", 1.0, 1.0),
        ("<loc0000><loc0000><loc0010><loc0010>", "<loc0000><loc0000><loc0010><loc0005> cat", 0.5, 1.0),
        ("<loc_0><loc_0><loc_10><loc_10>", "[0, 0, 10, 10]", 0.0, 0.0),
        ("a cat", "[0, 0, 10, 10]", None, None),
        ("", "", None, None),
    ],
)
def test_values(expected: str, answer: str, iou: float | None, hits: float | None) -> None:
    """One box, several, too many, none."""
    prediction = Prediction(row="r:1", expected=expected, answer=answer, convention="qwen3")

    assert box_iou(prediction) == (None if iou is None else pytest.approx(iou))
    assert box_acc_50(prediction) == (None if hits is None else pytest.approx(hits))
