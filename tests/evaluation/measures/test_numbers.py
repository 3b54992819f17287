"""Relaxed accuracy beside what lmms-eval's function for ChartQA gives."""

import pytest

from vlora.evaluation.measures.numbers import relaxed_accuracy
from vlora.evaluation.prediction import Prediction

# Expected, answered, as `relaxed_correctness` of lmms-eval 0.7.3 says.
CASES = [
    ("100", "105", 1.0),
    ("100", "105.1", 0.0),
    ("100", "95", 1.0),
    ("100", "94.9", 0.0),
    ("-20", "-21", 1.0),
    ("-20", "20", 0.0),
    ("0", "0", 1.0),
    ("0", "0.0", 0.0),
    ("0", "0.001", 0.0),
    ("50%", "0.51", 1.0),
    ("50%", "50", 0.0),
    ("0.5", "50%", 1.0),
    ("12", "12.0 km", 0.0),
    ("Yes", "yes", 1.0),
    ("Yes", "no", 0.0),
    ("", "", 1.0),
    ("", "3", 0.0),
    ("3", "", 0.0),
    ("1,000", "1000", 0.0),
    ("1,000", "1,000", 1.0),
    ("1e3", "1000", 1.0),
    ("Köln", "KÖLN", 1.0),
    ("\uff12", "2", 1.0),
    ("3", "inf", 0.0),
]


@pytest.mark.parametrize(("expected", "answer", "value"), CASES)
def test_relaxed_accuracy(expected: str, answer: str, value: float) -> None:
    """Numbers within 5 %, texts without case."""
    assert relaxed_accuracy(Prediction(row="r:1", expected=expected, answer=answer)) == value
    assert relaxed_accuracy(Prediction(row="r:1", expected=f" {expected}\n", answer=f"{answer} ")) == value
