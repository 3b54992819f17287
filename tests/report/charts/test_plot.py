"""Charts as text have each line where its values are, in a letter of its own, and never leave their width."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora.report.charts.chart import Chart, Line
from vlora.report.charts.plot import draw_text, letter_of


def test_lines_go_where_their_values_are() -> None:
    """One rises, one falls; they meet in the middle."""
    xs = tuple(range(11))
    rising = Line(name="a", xs=xs, ys=tuple(float(x) for x in xs))
    falling = Line(name="b", xs=xs, ys=tuple(10.0 - x for x in xs))

    lines = draw_text(Chart(title="", lines=(rising, falling)), 40, 11)

    assert lines[0].endswith("A")
    assert lines[-2].endswith("B")
    assert "B" in lines[0]
    assert "A" in lines[-2]
    assert [number for number, line in enumerate(lines) if "*" in line] == [5]
    assert lines[-1].split() == ["0", "5", "10"]


@given(
    st.lists(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), min_size=1, max_size=30),
    st.integers(20, 100),
    st.integers(3, 20),
)
def test_any_chart_fits(values: list[list[float]], width: int, height: int) -> None:
    """Into its width and height; each line is there, alone or where several meet."""
    lines = tuple(Line(name=str(number), xs=tuple(range(len(ys))), ys=tuple(ys)) for number, ys in enumerate(values))
    drawn = draw_text(Chart(title="", lines=lines), width, height)

    assert len(drawn) == height + 1
    assert max(map(len, drawn)) <= width
    plane = "".join(line.partition("|")[2] for line in drawn)
    assert all(letter_of(number) in plane or "*" in plane for number in range(len(lines)))


def test_a_logarithmic_axis() -> None:
    """A value ten times as high is as far away wherever it is."""
    line = Line(name="a", xs=(0, 1, 2), ys=(0.01, 1.0, 100.0))
    drawn = draw_text(Chart(title="", lines=(line,)), 40, 13)

    rows = [number for number, text in enumerate(drawn) if "A" in text]
    assert rows[0] == 13 - 1 - rows[-1]
    assert drawn[6].startswith("   1 |") or drawn[6].lstrip().startswith("1 |")


@pytest.mark.parametrize(("number", "letter"), [(0, "A"), (25, "Z"), (26, "A")])
def test_letters(number: int, letter: str) -> None:
    """Of as many runs as there are letters each has its own."""
    assert letter_of(number) == letter
