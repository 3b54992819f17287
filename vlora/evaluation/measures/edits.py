"""Metrics that count edits: ANLS, character and word error rates. Their packages are imported when they are used."""

import numpy as np

from ..metric import Array
from ..prediction import Prediction
from .text import references_of

LEAST_SIMILARITY = 0.5
"""Of ANLS: what is less similar counts as wrong."""


def anls(prediction: Prediction) -> float:
    """Give 1 - edits / length of the longer text, the best over all right answers; 0 where that is below 0.5.

    Case and blanks count for nothing.

    Source:
        DocVQA's ANLS (arXiv:1907.00490, section 4).
    """
    from rapidfuzz.distance import Levenshtein

    answer = _fold(prediction.answer)
    best = max(Levenshtein.normalized_similarity(_fold(each), answer) for each in references_of(prediction))
    return float(best) if best >= LEAST_SIMILARITY else 0.0


def _fold(text: str) -> str:
    return " ".join(text.lower().split())


def count_character_edits(prediction: Prediction) -> tuple[float, float]:
    """Count the edits of characters that make the answer of what is expected, and the characters expected."""
    import jiwer

    found = jiwer.process_characters(prediction.expected, prediction.answer)
    n_lost = found.substitutions + found.deletions
    return n_lost + found.insertions, n_lost + found.hits


def count_word_edits(prediction: Prediction) -> tuple[float, float]:
    """Count the edits of words that make the answer of what is expected, and the words expected."""
    import jiwer

    found = jiwer.process_words(prediction.expected, prediction.answer)
    n_lost = found.substitutions + found.deletions
    return n_lost + found.insertions, n_lost + found.hits


def error_rate(sums: Array) -> Array:
    """Divide edits by what was expected; of nothing, each insertion is a whole error, as in jiwer."""
    return sums[:, 0] / np.maximum(sums[:, 1], 1)
