"""Intervals of means and of ratios, by drawing rows again."""

import numpy as np
import pytest

from vlora.evaluation import bootstrap
from vlora.evaluation.metric import Sums, mean


def find_interval(sums: Sums) -> tuple[float, float]:
    """Give the interval of one value."""
    return bootstrap.find_intervals({"": sums})[""]


def sums_of(values: list[float]) -> Sums:
    """Give what the mean of values is made of."""
    return Sums(terms=np.array([(value, 1.0) for value in values]), combine=mean)


def test_the_interval_of_a_mean_is_as_wide_as_its_standard_error_says() -> None:
    """200 rows of which 60 are right: 0.3 within 1.96 * sqrt(0.3 * 0.7 / 200) = 0.0635, but for the drawing."""
    low, high = find_interval(sums_of([1.0] * 60 + [0.0] * 140))

    assert low == pytest.approx(0.3 - 0.0635, abs=0.01)
    assert high == pytest.approx(0.3 + 0.0635, abs=0.01)


def test_rows_are_drawn_together() -> None:
    """A ratio of sums has the interval that plain loops over the same kind of draws find."""
    generator = np.random.default_rng(5)
    terms = np.stack([generator.integers(0, 5, 80), generator.integers(5, 20, 80)], axis=1).astype(float)
    drawn = [terms[generator.integers(80, size=80)].sum(axis=0) for _ in range(4000)]
    expected = np.quantile([top / bottom for top, bottom in drawn], [0.025, 0.975])

    found = find_interval(Sums(terms=terms, combine=lambda sums: sums[:, 0] / sums[:, 1]))

    assert found == pytest.approx(expected, rel=0.03)


def test_the_same_rows_have_the_same_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing depends on what was drawn before, nor on how many rows are drawn in a piece but for other draws."""
    rows = sums_of([float(n % 7) for n in range(50)])
    first = find_interval(rows)
    np.random.default_rng().random()

    assert find_interval(rows) == first
    monkeypatch.setattr(bootstrap, "MOST_COUNTS", 170)
    assert find_interval(rows) == first


def test_one_row_and_equal_rows_have_no_width() -> None:
    """There is nothing else to draw."""
    assert find_interval(sums_of([0.25])) == (0.25, 0.25)
    assert find_interval(sums_of([1.0] * 9)) == (1.0, 1.0)


def test_values_together_have_the_intervals_that_each_has_alone() -> None:
    """Draws are shared by values of as many rows, and do not depend on those of others."""
    values = {
        "a": sums_of([float(n % 7) for n in range(50)]),
        "b": sums_of([float(n % 3) for n in range(50)]),
        "c": sums_of([1.0, 0.0, 1.0]),
    }

    assert bootstrap.find_intervals(values) == {name: find_interval(sums) for name, sums in values.items()}
    assert bootstrap.find_intervals({}) == {}
