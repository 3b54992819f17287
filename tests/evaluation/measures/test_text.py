"""Metrics of short answers beside values that were written down."""

from typing import Any

import pytest

from vlora.evaluation.measures.text import (
    answers_of,
    contains,
    exact_match,
    exact_match_strict,
    normalize,
    token_f1,
)
from vlora.evaluation.prediction import Prediction

# Expected, answered, the same once normalized, to the letter, the expected within the answer.
CASES: list[tuple[str, str, float, float, float | None]] = [
    ("cat", "cat", 1, 1, 1),
    ("cat", "Cat", 1, 0, 1),
    ("cat", "  cat\n", 1, 1, 1),
    ("a  red\tcat", "A red cat", 1, 0, 1),
    ("cat", "a cat on a sofa", 0, 0, 1),
    ("cat", "dog", 0, 0, 0),
    ("cat", "", 0, 0, 0),
    ("", "cat", 0, 0, None),
    ("", "", 1, 1, None),
    ("", " \n", 1, 1, None),
    ("Straße", "STRASSE", 1, 0, 1),
    ("ΣΑΣ", "σας", 1, 0, 1),
    ("İstanbul", "istanbul", 0, 0, 0),
    ("猫", "答案是猫。", 0, 0, 1),
    ("日本語", "日本語", 1, 1, 1),
    ("👩‍🚀", "👩‍🚀", 1, 1, 1),
    ("cat.", "cat", 0, 0, 0),
    ("a\u00a0b", "a b", 1, 0, 1),
    ("7", "17", 0, 0, 1),
]


@pytest.mark.parametrize(("expected", "answer", "same", "strict", "within"), CASES)
def test_matches(expected: str, answer: str, same: float, strict: float, within: float | None) -> None:
    """The three ways to find a text."""
    prediction = Prediction(row="r:1", expected=expected, answer=answer)

    assert exact_match(prediction) == same
    assert exact_match_strict(prediction) == strict
    assert contains(prediction) == within


# As the official script of SQuAD 2.0 gives them.
F1_CASES = [
    ("cat", "cat", 1.0),
    ("the cat", "a cat", 1.0),
    ("The Cat!", "cat", 1.0),
    ("red cat", "cat", 2 / 3),
    ("cat", "a big red cat", 0.5),
    ("cat dog", "dog bird", 0.5),
    ("cat cat dog", "cat dog dog", 2 / 3),
    ("cat", "dog", 0.0),
    ("", "", 1.0),
    ("the", "", 1.0),
    ("the", "an", 1.0),
    ("cat", "", 0.0),
    ("", "cat", 0.0),
    ("Denver Broncos", "The Denver Broncos won", 0.8),
    ("naïve café", "Naïve Café.", 1.0),
    ("猫 と 犬", "猫 と 鳥", 2 / 3),
    ("don't", "dont", 1.0),
    ("1,234", "1234", 1.0),
]


@pytest.mark.parametrize(("expected", "answer", "value"), F1_CASES)
def test_token_f1(expected: str, answer: str, value: float) -> None:
    """Words without case, punctuation and articles."""
    assert token_f1(Prediction(row="r:1", expected=expected, answer=answer)) == pytest.approx(value, abs=1e-12)


def test_token_f1_takes_the_best_answer() -> None:
    """A row may have several right answers."""
    columns = {"answers": {"text": ["Denver", "Denver Broncos"], "answer_start": [1, 2]}}
    prediction = Prediction(row="r:1", expected="Denver", answer="denver broncos", columns=columns)

    assert token_f1(prediction) == 1.0


@pytest.mark.parametrize(
    ("columns", "texts"),
    [
        ({}, []),
        ({"answers": None}, []),
        ({"answers": "a"}, []),
        ({"answers": []}, []),
        ({"answers": ["a", "b"]}, ["a", "b"]),
        ({"answers": ["a", 3]}, []),
        ({"answers": [{"answer": "a", "answer_id": 1}]}, ["a"]),
        ({"answers": {"text": ["a"]}}, ["a"]),
        ({"answers": {"other": ["a"]}}, []),
    ],
)
def test_answers_of(columns: dict[str, Any], texts: list[str]) -> None:
    """Lists of texts, of VQA's objects, and SQuAD's object are read, all else is no list of answers."""
    assert answers_of(columns) == texts


def test_normalize() -> None:
    """Blanks of all kinds are one space."""
    assert normalize("\u3000 A\u2003b\r\n") == "a b"
