"""Metrics are made of a comparison of rows, or of sums over rows."""

import numpy as np

from vlora.evaluation.metric import by_row, by_sums, mean
from vlora.evaluation.prediction import Prediction


def make_predictions(*answers: str) -> list[Prediction]:
    """Make predictions whose expected answer is "a"."""
    return [Prediction(row=f"r:{n}", expected="a", answer=answer) for n, answer in enumerate(answers)]


def test_by_row_leaves_out_rows_that_it_does_not_apply_to() -> None:
    """None is no value: the mean is that of the others."""
    metric = by_row("length", lambda row: len(row.answer) or None)

    measured = metric.measure(make_predictions("ab", "", "abcd"))

    assert measured.rows == [{"length": 2.0}, {}, {"length": 4.0}]
    assert measured.sums["length"].terms.tolist() == [[2.0, 1.0], [4.0, 1.0]]
    assert mean(measured.sums["length"].terms.sum(axis=0, keepdims=True)).tolist() == [3.0]


def test_by_row_may_give_several_values() -> None:
    """Each name is a value of its own, over the rows that have it."""
    metric = by_row("pair", lambda row: {"pair": 1.0, f"pair.{row.answer}": 0.5})

    measured = metric.measure(make_predictions("x", "y", "x"))

    assert measured.rows[1] == {"pair": 1.0, "pair.y": 0.5}
    assert {name: len(sums.terms) for name, sums in measured.sums.items()} == {"pair": 3, "pair.x": 2, "pair.y": 1}


def test_by_sums_combines_rows_and_all() -> None:
    """The value of all rows is that of their sums, and a row may have another formula."""
    metric = by_sums(
        "rate",
        lambda row: (row.answer.count("b"), len(row.answer)) if row.answer else None,
        lambda sums: sums[:, 0] / sums[:, 1],
        combine_row=lambda sums: sums[:, 0],
        is_higher_better=False,
    )

    measured = metric.measure(make_predictions("ab", "", "bbbb"))

    assert measured.rows == [{"rate": 1.0}, {}, {"rate": 4.0}]
    assert measured.sums["rate"].combine(np.array([[5.0, 6.0]])).tolist() == [5 / 6]
    assert metric.measure(make_predictions("")).sums == {}
    assert not metric.is_higher_better
