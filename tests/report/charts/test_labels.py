"""Labels stand beside lines, near to their points."""

import itertools

from vlora.report.charts.chart import Chart, Line, Mark
from vlora.report.charts.labels import crosses, label_box, overlaps, place_labels
from vlora.report.charts.layout import lay_out, measure

ROOM = (0.0, 0.0, 300.0, 200.0)
SIZE = 12.0
WIDTH = 100.0


def place(lines: list[list[tuple[float, float]]], *points: tuple[float, float]) -> list[tuple[float, float]]:
    """Place labels of one width."""
    return place_labels([WIDTH] * len(points), points, lines, ROOM, SIZE)


def test_a_label_is_below_its_point() -> None:
    """Where nothing is in the way; above at the lower edge, and never outside."""
    assert place([], (150, 100)) == [(150, 100 + 1.8 * SIZE)]
    assert place([], (150, 195)) == [(150, 195 - 0.9 * SIZE)]
    assert place([], (299, 100))[0][0] == 300 - WIDTH / 2
    assert len(place_labels([WIDTH], [(1, 1)], [], (0, 0, 3, 3), SIZE)) == 1


def test_lines_do_not_run_through_a_label() -> None:
    """Two lines that fall to the point at the lower right leave it no place nearby, but one further above."""
    first = [(0.0, 20.0), (100.0, 120.0), (200.0, 160.0), (299.0, 190.0)]
    second = [(0.0, 10.0), (100.0, 150.0), (200.0, 165.0), (299.0, 190.0)]
    lines = [first, second]
    [found] = place(lines, (299, 190))
    box = label_box(found, WIDTH, SIZE)

    assert not any(crosses(box, *pair) for line in lines for pair in itertools.pairwise(line))
    assert 190 - found[1] < 8 * SIZE


def test_labels_of_neighbours_are_apart() -> None:
    """Neither stands on the other, nor on its point."""
    boxes = [label_box(found, WIDTH, SIZE) for found in place([], (150, 100), (160, 102))]

    assert not overlaps(*boxes)


def test_what_crosses_a_box() -> None:
    """Lines through it, also upright and level ones; none beside it, and none that end before it."""
    box = (10.0, 10.0, 30.0, 20.0)

    assert all(crosses(box, *pair) for pair in (((0, 0), (40, 30)), ((20, 0), (20, 99)), ((0, 15), (99, 15))))
    assert crosses(box, (12, 12), (13, 13))
    assert not crosses(box, (0, 0), (5, 5))
    assert not crosses(box, (0, 25), (99, 25))
    assert not crosses(box, (0, 30), (15, 60))


def test_the_best_value_can_be_read() -> None:
    """A training and a validation that end together, as most runs do: no line runs through the label."""
    steps = (5.0, 10.0, 15.0, 20.0, 25.0, 30.0)
    train = Line(name="train", xs=steps, ys=(13.3, 1.62, 0.47, 0.389, 0.331, 0.2152))
    valid = Line(name="validation", xs=(0.0, 10.0, 20.0, 30.0), ys=(20.6, 0.6875, 0.3632, 0.2145))
    mark = Mark(x=30.0, y=0.2145, text="best 0.2145 at step 30")
    layout = lay_out(Chart(title="Loss", lines=(train, valid), marks=(mark,)), 800, 460)
    [label] = [text for text in layout.texts if text.kind == "mark"]
    box = label_box(label.at, measure(label.text, layout.size), layout.size)
    pairs = [pair for stroke in layout.strokes for pair in itertools.pairwise(stroke.points)]

    assert not any(crosses(box, *pair) for pair in pairs)
