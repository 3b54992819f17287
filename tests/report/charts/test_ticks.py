"""Axes have round ticks, few enough, and a place for every value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora.report.charts.ticks import make_axis


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20), st.integers(2, 12), st.booleans(), st.booleans())
def test_every_value_has_a_place(values: list[float], n_ticks: int, is_whole: bool, from_zero: bool) -> None:
    """Within the axis, in order; ticks are few, within it, and read differently."""
    axis = make_axis(values, n_ticks, is_whole=is_whole, from_zero=from_zero)

    places = [axis.place(value) for value in sorted(values)]
    assert places == sorted(places)
    assert places[0] >= -1e-9
    assert places[-1] <= 1 + 1e-9
    assert len(axis.ticks) <= n_ticks + 1
    assert all(-1e-6 <= axis.place(tick) <= 1 + 1e-6 for tick in axis.ticks)
    assert not from_zero or axis.low <= 0
    if max(values) - min(values) > 1e-3 * max(map(abs, values)):
        assert len(set(axis.labels)) == len(axis.labels)


@given(st.lists(st.floats(1e-12, 1e12), min_size=1, max_size=20), st.integers(3, 12))
def test_every_value_has_a_place_on_a_logarithmic_axis(values: list[float], n_ticks: int) -> None:
    """As on a linear one."""
    axis = make_axis(values, n_ticks, is_log=True)

    places = [axis.place(value) for value in sorted(values)]
    assert places == sorted(places)
    assert places[0] >= -1e-9
    assert places[-1] <= 1 + 1e-9
    assert len(axis.ticks) <= n_ticks
    assert len(set(axis.labels)) == len(axis.labels)


@pytest.mark.parametrize(
    ("values", "n_ticks", "options", "expected"),
    [
        ((0, 20_000), 5, {"is_whole": True}, ["0", "5,000", "10,000", "15,000", "20,000"]),
        ((1, 3), 8, {"is_whole": True}, ["1", "2", "3"]),
        ((0, 0), 8, {"is_whole": True}, ["0", "1"]),
        ((0.0, 1.0), 5, {}, ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ((0.0, 1e-4), 4, {}, ["0", "5e-5", "1.0e-4"]),
        ((0.1, 3.0), 7, {"is_log": True}, ["0.1", "0.2", "0.3", "0.5", "1", "2", "3"]),
        ((0.001, 900.0), 7, {"is_log": True}, ["0.001", "0.01", "0.1", "1", "10", "100", "1,000"]),
        ((41.5, 48.0), 4, {"from_zero": True}, ["0", "20", "40"]),
    ],
)
def test_ticks_are_round(
    values: tuple[float, ...], n_ticks: int, options: dict[str, bool], expected: list[str]
) -> None:
    """Ones, twos and fives, written as exactly as they are far apart."""
    assert list(make_axis(values, n_ticks, **options).labels) == expected


def test_a_score_that_stays_has_no_negative_range() -> None:
    """Of values of which none is negative the axis begins at 0 or above, also where all are equal."""
    assert make_axis([0.0, 0.0], 5).low == 0
    assert make_axis([0.0], 5).ticks[0] == 0
    assert make_axis([2.0, 2.0], 5).low == 1
    assert make_axis([-2.0, -2.0], 5).low == -3
