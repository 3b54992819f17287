"""Lines keep what can be seen of them, and are described in words."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora.report.charts.chart import MOST_POINTS, Chart, Line, thin, thin_line


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3000), st.integers(8, 500))
def test_thinned_lines_keep_ends_and_extremes(ys: list[float], most: int) -> None:
    """Never more points than asked for; the first, the last, the lowest and the highest value are among them."""
    places = thin(range(len(ys)), ys, most)

    assert len(places) <= max(most, 4)
    assert places == sorted(set(places))
    assert {places[0], places[-1]} == {0, len(ys) - 1}
    assert {min(ys), max(ys)} <= {ys[place] for place in places}


def test_intervals_are_thinned_with_their_line() -> None:
    """Each value keeps its own interval."""
    ys = tuple(math.sin(x) for x in range(5000))
    line = Line(name="a", xs=tuple(range(5000)), ys=ys, low=tuple(y - 1 for y in ys), high=tuple(y + 1 for y in ys))

    thinned = thin_line(line)

    assert len(thinned.ys) <= MOST_POINTS < len(ys)
    assert thinned.low == tuple(y - 1 for y in thinned.ys)
    assert thinned.high == tuple(y + 1 for y in thinned.ys)


@pytest.mark.parametrize(
    ("ys", "is_log", "expected"),
    [
        ((3.0, 0.1), None, True),
        ((3.0, 1.0), None, False),
        ((3.0, 0.0), None, False),
        ((3.0, 0.1), False, False),
        ((3.0, 1.0), True, True),
        ((3.0, -1.0), True, False),
        ((), True, False),
    ],
)
def test_when_an_axis_is_logarithmic(ys: tuple[float, ...], is_log: bool | None, expected: bool) -> None:
    """Where values are positive and far apart, unless the chart says it."""
    line = Line(name="a", xs=tuple(range(len(ys))), ys=ys)

    assert Chart(title="a", lines=(line,), is_log=is_log).takes_log == expected


def test_a_chart_in_words() -> None:
    """First, last, lowest and highest value are said; lines without a point are not spoken of."""
    chart = Chart(
        title="a", lines=(Line(name="loss", xs=(1, 1000, 2000), ys=(3, 0.5, 1)), Line(name="b", xs=(), ys=()))
    )

    assert chart.describe() == ("loss: 3 points, 3 at 1, 1 at 2,000, lowest 0.5 at 1,000, highest 3 at 1")
