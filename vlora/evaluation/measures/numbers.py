"""Relaxed accuracy: numbers that are about right. Pure."""

from ..prediction import Prediction

TOLERANCE = 0.05
"""Share of the expected number by which the answer may differ."""


def relaxed_accuracy(prediction: Prediction) -> float:
    """Whether the answer is the expected number within 5 %, or the same text without case where one is no number.

    Percentages are divided by 100. An expected 0 has no 5 %, and is compared as a text.

    Source:
        ChartQA (arXiv:2203.10244, section 5.1), as lmms-eval computes it.
    """
    expected, answer = prediction.expected.strip(), prediction.answer.strip()
    wanted, found = _number(expected), _number(answer)
    if found is None or not wanted:
        return float(answer.lower() == expected.lower())
    return float(abs(found - wanted) / abs(wanted) <= TOLERANCE)


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
