"""Histograms count every value once, in bars of round widths, and are well-formed SVG."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora.report.histogram import MOST_BARS, WIDTH, count_values, draw_histogram

wholes = st.lists(st.integers(0, 10**6), min_size=1, max_size=60)
shares = st.lists(st.floats(0, 100, width=32), min_size=1, max_size=60)


@given(st.one_of(wholes.map(lambda found: (found, True)), shares.map(lambda found: (found, False))))
def test_every_value_is_in_its_bar(drawn: tuple[list[float], bool]) -> None:
    """All are counted, none lies outside, and there are few bars."""
    values, whole = drawn
    bins = count_values(values, whole=whole)

    assert sum(bins.counts) == len(values)
    assert len(bins.edges) == len(bins.counts) + 1 <= MOST_BARS + 1
    assert bins.edges[0] <= min(values)
    assert max(values) < bins.edges[-1]
    step = bins.edges[1] - bins.edges[0]
    for left, right, count in zip(bins.edges, bins.edges[1:], bins.counts, strict=False):
        assert right - left == pytest.approx(step)
        inside = sum(left <= value < right for value in values)
        # Of shares that lie on an edge, rounding decides.
        assert inside == count or not whole


def test_bars_are_round() -> None:
    """Edges are numbers that one reads at a glance."""
    assert count_values([3, 90, 1011]).edges[:3] == (0, 50, 100)
    assert count_values([4, 5, 6]).edges == (4, 5, 6, 7)


@given(wholes, st.text(max_size=20))
def test_it_is_svg(values: list[int], title: str) -> None:
    """Whatever its title says; its bars stay within it, and it says what it shows."""
    title = "".join(character for character in title if character.isprintable())
    drawn = draw_histogram([*values, -1], title, "tokens", limit=500)
    root = ET.fromstring(drawn)

    assert len(root.findall("rect")) == len(count_values([*values, -1]).counts)
    assert (root.findtext("title") or "").startswith(f"{title}: {len(values) + 1} values from -1 to ")
    for bar in root.findall("rect"):
        assert float(bar.get("x", "")) >= 0
        assert float(bar.get("x", "")) + float(bar.get("width", "")) <= WIDTH
        assert float(bar.get("height", "")) >= 0


def test_the_limit_is_a_line() -> None:
    """Where values lie on both sides of it."""
    assert "limit 500" in draw_histogram([1, 1000], "lengths", "tokens", limit=500)
    assert "limit" not in draw_histogram([1, 100], "lengths", "tokens", limit=500)


def test_what_needs_no_bars() -> None:
    """Values that are all alike are a sentence, and none are nothing."""
    assert draw_histogram([7, 7, 7], "<lengths>", "tokens") == (
        '<p class="alike"><strong>&lt;lengths&gt;</strong><br>7 tokens in all 3</p>'
    )
    assert draw_histogram([], "lengths", "tokens") == ""
