"""Metrics of longer answers: BLEU, chrF, ROUGE-L. Their packages are imported when they are used."""

import functools
import re
from typing import Any

import numpy as np

from ..metric import Array
from ..prediction import Prediction
from .text import references_of

ORDERS = 4
"""Of BLEU: the longest n-grams, of words."""

CHARACTER_ORDERS = 6
"""Of chrF: the longest n-grams, of characters."""

BETA = 2
"""Of chrF: how many times recall weighs what precision does."""

_READ_BY_ROUGE = re.compile("[a-z0-9]")


def count_bleu(prediction: Prediction) -> list[float]:
    """Count words and n-grams of words: of the answer, of what is expected, those shared, those of the answer."""
    found = _make_bleu().sentence_score(prediction.answer, references_of(prediction))
    return [found.sys_len, found.ref_len, *found.counts, *found.totals]


@functools.cache
def _make_bleu() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    # Only its counts are used, which do not depend on the order; without it, it warns.
    return BLEU(effective_order=True)


def bleu(sums: Array) -> Array:
    """Make BLEU of `count_bleu`'s counts, from 0 to 100, as sacrebleu's `corpus_score` does."""
    return _bleu(sums, is_effective=False)


def sentence_bleu(sums: Array) -> Array:
    """Make BLEU of one row's counts, which leaves out n-grams that are longer than the answer."""
    return _bleu(sums, is_effective=True)


def _bleu(sums: Array, *, is_effective: bool) -> Array:
    """Take the geometric mean of the precisions, times the penalty for answers that are too short.

    Where no n-gram of an order is shared, a half is, of the next such order a quarter, and so on (sacrebleu's "exp").
    """
    n_found, n_expected = sums[:, 0], sums[:, 1]
    shared, total = sums[:, 2 : 2 + ORDERS], sums[:, 2 + ORDERS :]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        penalty = np.where(n_found < n_expected, np.exp(1 - n_expected / n_found), 1.0)
        is_there = np.cumprod(total > 0, axis=1) > 0
        is_none = is_there & (shared == 0)
        halves = 2.0 ** -np.cumsum(is_none, axis=1)
        logs = np.log(np.where(is_none, halves, shared) / total)
    n_orders = is_there.sum(axis=1)
    means = np.where(is_there, logs, 0.0).sum(axis=1) / np.maximum(n_orders, 1)
    has_score = shared.any(axis=1) & (is_effective | (n_orders == ORDERS))
    return np.where(has_score, 100 * penalty * np.exp(means), 0.0)


def count_chrf(prediction: Prediction) -> list[float]:
    """Count n-grams of characters of each order: of the answer, of what is expected, those shared.

    Of several right answers, the one with the highest chrF is counted.
    """
    from sacrebleu.metrics.helpers import extract_all_char_ngrams

    found = extract_all_char_ngrams(prediction.answer, CHARACTER_ORDERS)
    counts = []
    for reference in references_of(prediction):
        expected = extract_all_char_ngrams(reference, CHARACTER_ORDERS)
        counts.append(
            [
                float(count)
                for mine, theirs in zip(found, expected, strict=True)
                # Orders that the expected text is too short for count nothing.
                for count in (mine.total() if theirs else 0, theirs.total(), (mine & theirs).total())
            ]
        )
    return counts[int(np.argmax(chrf(np.array(counts, dtype=np.float64))))]


def chrf(sums: Array) -> Array:
    """Make chrF2 of `count_chrf`'s counts, from 0 to 100: F of precision and recall, each a mean over the orders."""
    counts = sums.reshape(len(sums), CHARACTER_ORDERS, 3)
    n_found, n_expected, n_shared = counts[:, :, 0], counts[:, :, 1], counts[:, :, 2]
    is_there = (n_found > 0) & (n_expected > 0)
    n_orders = np.maximum(is_there.sum(axis=1), 1)
    precision = (is_there * n_shared / np.maximum(n_found, 1)).sum(axis=1) / n_orders
    recall = (is_there * n_shared / np.maximum(n_expected, 1)).sum(axis=1) / n_orders
    weight = BETA**2
    bottom = weight * precision + recall
    found: Array = 100 * (1 + weight) * precision * recall / np.where(bottom > 0, bottom, 1.0)
    return found


def rouge_l(prediction: Prediction) -> float | None:
    """Give the F1 of the longest common subsequence of words, stemmed, the best over all right answers.

    ROUGE reads the letters a to z and digits only: texts without any, in other scripts, are left out.
    """
    references = [each for each in references_of(prediction) if not each or _READ_BY_ROUGE.search(each.lower())]
    if not references:
        return None
    found = _make_rouge().score_multi(references, prediction.answer)
    return float(found["rougeL"].fmeasure)


@functools.cache
def _make_rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)
