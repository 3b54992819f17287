"""What a metric is, and what it says of answers. Pure."""

from collections.abc import Callable, Mapping, Sequence

import attrs
import numpy as np
import numpy.typing as npt

from .prediction import Prediction

Array = npt.NDArray[np.float64]
Combine = Callable[[Array], Array]
"""Sums over rows, f64[R, K], become values, f64[R]: what a metric says of a set of rows follows from sums over them."""


@attrs.frozen(kw_only=True, eq=False)
class Sums:
    """What one value over a set of rows is made of.

    Attributes:
        terms: f64[N, K], one line for each row that the metric applies to.
        combine: Makes values of sums of such lines.
    """

    terms: Array
    combine: Combine


@attrs.frozen(kw_only=True, eq=False)
class Measured:
    """What a metric says of answers.

    Attributes:
        rows: A dict for each answer, names to values; empty where the metric does not apply.
        sums: Names of values over all rows, to what they are made of.
        fixed: Names of values over all rows that a function gave as they are.
    """

    rows: list[dict[str, float]]
    sums: Mapping[str, Sums]
    fixed: Mapping[str, float] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Metric:
    """One way to compare answers with what was expected.

    Attributes:
        name: As a recipe has it.
        measure: Compares all answers.
        is_higher_better: Whether 1 is better than 0.
        libraries: Names of modules that it imports, to names of their packages.
    """

    name: str
    measure: Callable[[Sequence[Prediction]], Measured]
    is_higher_better: bool = True
    libraries: Mapping[str, str] = attrs.field(factory=dict)


def mean(sums: Array) -> Array:
    """Divide the sum of values by how many they are: terms are (value, 1)."""
    return sums[:, 0] / sums[:, 1]


def by_row(
    name: str,
    compare: Callable[[Prediction], Mapping[str, float] | float | None],
    *,
    libraries: Mapping[str, str] | None = None,
) -> Metric:
    """Make a metric whose value over a set of rows is the mean of theirs.

    Args:
        name: As a recipe has it.
        compare: Gives a row's value; several with their names; None where the metric does not apply.
        libraries: As for `Metric`.
    """

    def measure(predictions: Sequence[Prediction]) -> Measured:
        rows = []
        for prediction in predictions:
            found = compare(prediction)
            rows.append({} if found is None else dict(found) if isinstance(found, Mapping) else {name: float(found)})
        return Measured(rows=rows, sums=sums_of_means(rows))

    return Metric(name=name, measure=measure, libraries=libraries or {})


def sums_of_means(rows: Sequence[Mapping[str, float]]) -> dict[str, Sums]:
    """Give what the mean of each name's values is made of."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    return {
        name: Sums(terms=np.array([(value, 1.0) for value in found]), combine=mean) for name, found in values.items()
    }


def by_sums(
    name: str,
    count: Callable[[Prediction], Sequence[float] | None],
    combine: Combine,
    *,
    combine_row: Combine | None = None,
    is_higher_better: bool = True,
    libraries: Mapping[str, str] | None = None,
) -> Metric:
    """Make a metric whose value over a set of rows is no mean of theirs, such as BLEU.

    Args:
        name: As a recipe has it.
        count: Gives what is summed over rows; None where the metric does not apply.
        combine: Makes values of sums.
        combine_row: The same for one row, where that is another formula.
        is_higher_better: As for `Metric`.
        libraries: As for `Metric`.
    """

    def measure(predictions: Sequence[Prediction]) -> Measured:
        counted = [count(prediction) for prediction in predictions]
        terms = np.array([found for found in counted if found is not None], dtype=np.float64)
        if not len(terms):
            return Measured(rows=[{} for _ in predictions], sums={})
        values = iter((combine_row or combine)(terms))
        rows = [{} if found is None else {name: float(next(values))} for found in counted]
        return Measured(rows=rows, sums={name: Sums(terms=terms, combine=combine)})

    return Metric(name=name, measure=measure, is_higher_better=is_higher_better, libraries=libraries or {})
