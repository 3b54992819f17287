"""Metrics of short answers: the same text, the text within the answer, the same words. Pure."""

import re
import string
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..prediction import Prediction

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """Strip a text, fold its case and make one space of all blanks that stand together."""
    return " ".join(text.casefold().split())


def references_of(prediction: Prediction) -> list[str]:
    """Give all right answers of a row: those of its column `answers` where it has some, else what is expected.

    The column may be a list of texts, as DocVQA has it, a list of objects with the key "answer", as VQA has it, or an
    object with such a list under "text", as SQuAD has it.
    """
    return answers_of(prediction.columns) or [prediction.expected]


def answers_of(columns: Mapping[str, Any]) -> list[str]:
    """Give the texts of the column `answers`; none where there is no such list."""
    found = columns.get("answers")
    if isinstance(found, Mapping):
        found = found.get("text")
    if not isinstance(found, (list, tuple)):
        return []
    texts = [item.get("answer") if isinstance(item, Mapping) else item for item in found]
    return [text for text in texts if isinstance(text, str)] if all(isinstance(text, str) for text in texts) else []


def exact_match(prediction: Prediction) -> float:
    """Whether the normalized texts are the same."""
    return float(normalize(prediction.answer) == normalize(prediction.expected))


def exact_match_strict(prediction: Prediction) -> float:
    """Whether the texts are the same to the letter, blanks around them left out."""
    return float(prediction.answer.strip() == prediction.expected.strip())


def contains(prediction: Prediction) -> float | None:
    """Whether the expected text stands in the answer, both normalized; an empty one stands in all, and is left out."""
    expected = normalize(prediction.expected)
    return float(expected in normalize(prediction.answer)) if expected else None


def token_f1(prediction: Prediction) -> float:
    """Give the F1 of the answer's words, the best over all right answers, as SQuAD 2.0 measures it."""
    found = _words(prediction.answer)
    return max(_f1(found, _words(reference)) for reference in references_of(prediction))


def _words(text: str) -> list[str]:
    """Split a text into words without case, punctuation and articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _f1(found: list[str], expected: list[str]) -> float:
    if not found or not expected:
        return float(found == expected)
    n_shared = (Counter(found) & Counter(expected)).total()
    return 2 * n_shared / (len(found) + len(expected))
