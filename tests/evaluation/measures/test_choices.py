"""Which option an answer names."""

from typing import Any

import pytest

from vlora.evaluation.measures.choices import choice_accuracy, choose, find_options
from vlora.evaluation.prediction import Prediction

OPTIONS = {"A": "a red cat", "B": "a dog", "C": "12 km", "D": "猫"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        (" (B) ", "B"),
        ("**B**", "B"),
        ("B.", "B"),
        ("B. a dog", "B"),
        ("(B) a dog", "B"),
        ("B) a dog", "B"),
        ("B: a dog", "B"),
        ("A dog", "B"),
        ("a dog.", "B"),
        ("A red cat", "A"),
        ("猫", "D"),
        ("12 km", "C"),
        ("The answer is B.", "B"),
        ("The answer is (B), not A", "B"),
        ("Answer: b", "B"),
        ("First I thought the answer is A. The final answer: C", "C"),
        ("The answer is a dog", "B"),
        ("It must be (D) because of the ears", "D"),
        ("I choose B because A cat is not there", "B"),
        ("I see a dog in the grass", "B"),
        ("a red cat or a dog", None),
        ("A or B", None),
        ("E", None),
        ("", None),
        ("   ", None),
        ("no idea", None),
        ("Bad", None),
    ],
)
def test_choose(text: str, letter: str | None) -> None:
    """By letter, by text, within a sentence; not where two are named."""
    assert choose(text, OPTIONS) == letter


@pytest.mark.parametrize(
    ("columns", "options"),
    [
        ({}, {}),
        ({"choices": ["x", "y"]}, {"A": "x", "B": "y"}),
        ({"options": ["x", 3]}, {"A": "x", "B": "3"}),
        ({"options": "['x', 'y']"}, {"A": "x", "B": "y"}),
        ({"options": '{"a": "x", "b": "y"}'}, {"A": "x", "B": "y"}),
        ({"choices": {"label": ["1", "2"], "text": ["x", "y"]}}, {"1": "x", "2": "y"}),
        ({"A": "x", "B": "y", "C": "z", "E": None}, {"A": "x", "B": "y", "C": "z"}),
        ({"A": "x"}, {}),
        ({"options": "x or y"}, {}),
        ({"choices": []}, {}),
        ({"choices": 3, "options": ["x", "y"]}, {"A": "x", "B": "y"}),
    ],
)
def test_find_options(columns: dict[str, Any], options: dict[str, str]) -> None:
    """As MMMU, ScienceQA, ARC and MMBench have them."""
    assert find_options(columns) == options


@pytest.mark.parametrize(
    ("expected", "answer", "columns", "value"),
    [
        ("B", "The answer is (B)", {}, 1.0),
        ("B", "A", {}, 0.0),
        ("B", "", {}, 0.0),
        ("a dog", "B", {"options": list(OPTIONS.values())}, 1.0),
        ("B", "a dog", {"options": list(OPTIONS.values())}, 1.0),
        ("D", "猫", {"options": list(OPTIONS.values())}, 1.0),
        ("B", "a dog", {}, 0.0),
        ("b", "B", {}, 1.0),
        ("(C)", "C) because it is far", {}, 1.0),
        ("B", "A or B", {}, 0.0),
        ("a dog", "A red cat.", {"options": list(OPTIONS.values())}, 0.0),
        ("A", "Die Antwort ist 猫", {"options": list(OPTIONS.values())}, 0.0),
        ("猫", "D", {"options": list(OPTIONS.values())}, 1.0),
        ("2", "y", {"choices": {"label": ["1", "2"], "text": ["x", "y"]}}, 1.0),
        ("2", "(2).", {"choices": {"label": ["1", "2"], "text": ["x", "y"]}}, 1.0),
        ("2", "1", {"choices": {"label": ["1", "2"], "text": ["x", "y"]}}, 0.0),
        ("B", "   ", {"options": list(OPTIONS.values())}, 0.0),
        ("cat", "cat", {}, None),
        ("", "", {}, None),
        ("", "B", {}, None),
    ],
)
def test_choice_accuracy(expected: str, answer: str, columns: dict[str, Any], value: float | None) -> None:
    """The expected answer may be a letter or a text, too; if it is neither, the row is left out."""
    assert choice_accuracy(Prediction(row="r:1", expected=expected, answer=answer, columns=columns)) == value
