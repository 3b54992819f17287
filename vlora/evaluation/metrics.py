"""All metrics by their names, and the scores of answers."""

import difflib
import importlib
from collections.abc import Mapping, Sequence

import attrs

from ..errors import RecipeError
from ..scores import Score
from .bootstrap import find_intervals
from .measures.boxes import box_acc_50, box_iou
from .measures.choices import choice_accuracy
from .measures.edits import anls, count_character_edits, count_word_edits, error_rate
from .measures.json_fields import json_fields, json_valid
from .measures.ngrams import bleu, chrf, count_bleu, count_chrf, rouge_l, sentence_bleu
from .measures.numbers import relaxed_accuracy
from .measures.own import BETWEEN, load_metric
from .measures.text import contains, exact_match, exact_match_strict, token_f1
from .measures.vqa import vqa_accuracy
from .metric import Metric, Sums, by_row, by_sums
from .prediction import Prediction

RAPIDFUZZ, JIWER = {"rapidfuzz.distance": "rapidfuzz"}, {"jiwer": "jiwer"}
SACREBLEU, ROUGE = {"sacrebleu.metrics.bleu": "sacrebleu"}, {"rouge_score.rouge_scorer": "rouge-score"}

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        by_row("exact_match", exact_match),
        by_row("exact_match_strict", exact_match_strict),
        by_row("contains", contains),
        by_row("token_f1", token_f1),
        by_row("anls", anls, libraries=RAPIDFUZZ),
        by_sums("cer", count_character_edits, error_rate, is_higher_better=False, libraries=JIWER),
        by_sums("wer", count_word_edits, error_rate, is_higher_better=False, libraries=JIWER),
        by_sums("bleu", count_bleu, bleu, combine_row=sentence_bleu, libraries=SACREBLEU),
        by_sums("chrf", count_chrf, chrf, libraries=SACREBLEU),
        by_row("rouge_l", rouge_l, libraries=ROUGE),
        by_row("relaxed_accuracy", relaxed_accuracy),
        by_row("vqa_accuracy", vqa_accuracy),
        by_row("choice_accuracy", choice_accuracy),
        by_row("json_valid", json_valid),
        by_row("json_fields", json_fields),
        by_row("box_iou", box_iou),
        by_row("box_acc_50", box_acc_50),
    )
}
"""Names to metrics; README has a table of them."""

MEANINGS = {
    "accuracy": "exact_match",
    "acc": "exact_match",
    "em": "exact_match",
    "exact": "exact_match",
    "match": "exact_match",
    "strict": "exact_match_strict",
    "includes": "contains",
    "substring": "contains",
    "f1": "token_f1",
    "squad": "token_f1",
    "levenshtein": "anls",
    "edit_distance": "anls",
    "docvqa": "anls",
    "character_error_rate": "cer",
    "word_error_rate": "wer",
    "ocr": "cer",
    "sacrebleu": "bleu",
    "rouge": "rouge_l",
    "rougel": "rouge_l",
    "chartqa": "relaxed_accuracy",
    "relaxed": "relaxed_accuracy",
    "vqa": "vqa_accuracy",
    "textvqa": "vqa_accuracy",
    "mcq": "choice_accuracy",
    "multiple_choice": "choice_accuracy",
    "mmmu": "choice_accuracy",
    "json": "json_valid",
    "json_accuracy": "json_fields",
    "iou": "box_iou",
    "acc@0.5": "box_acc_50",
    "acc@50": "box_acc_50",
    "grounding": "box_acc_50",
}
"""Other names under which metrics are known."""


@attrs.frozen(kw_only=True)
class Scores:
    """What metrics say of answers.

    Attributes:
        rows: A dict for each answer, names to values; a metric that does not apply to a row is left out.
        summary: Names to values over all rows; a metric that applies to no row is left out.
        idle: Names of metrics that apply to no row.
    """

    rows: list[dict[str, float]]
    summary: dict[str, Score]
    idle: tuple[str, ...] = ()


def find_metrics(names: Sequence[str]) -> tuple[Metric, ...]:
    """Find metrics by their names, and import what they need.

    Args:
        names: As `eval.metrics` has them.

    Raises:
        RecipeError: There is none of such a name, a name stands twice, or a package is not installed.
    """
    if isinstance(names, str):
        msg = f"eval.metrics: found the text {names!r}; give a list of names, such as [{names!r}]"
        raise RecipeError(msg)
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        msg = f"eval.metrics: found {twice[0]!r} twice; name each metric once"
        raise RecipeError(msg)
    metrics = tuple(map(_find_metric, names))
    shared = sorted({metric.name for metric in metrics if [each.name for each in metrics].count(metric.name) > 1})
    if shared:
        msg = f"eval.metrics: {shared[0]!r} is the name of two metrics; rename the function"
        raise RecipeError(msg)
    missing = {metric.name: _find_missing(metric) for metric in metrics}
    if packages := sorted({package for found in missing.values() for package in found}):
        needy = [name for name, found in missing.items() if found]
        msg = (
            f"eval.metrics: {' and '.join(needy)} {'need' if len(needy) > 1 else 'needs'} {' and '.join(packages)}, "
            f"which cannot be imported; `python -m pip install {' '.join(packages)}` brings "
            f"{'them' if len(packages) > 1 else 'it'}"
        )
        raise RecipeError(msg)
    return metrics


def _find_metric(name: str) -> Metric:
    if name in METRICS:
        return METRICS[name]
    if BETWEEN in name:
        return load_metric(name)
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    close = difflib.get_close_matches(plain, [*MEANINGS, *METRICS], n=1)
    near = MEANINGS.get(close[0], close[0]) if close else None
    hint = f"did you mean {near!r}?" if near else f"expected one of {', '.join(METRICS)}, or module:function"
    msg = f"eval.metrics: found {name!r}, which is no metric; {hint}"
    raise RecipeError(msg)


def _find_missing(metric: Metric) -> list[str]:
    missing = []
    for module, package in metric.libraries.items():
        try:
            importlib.import_module(module)
        except ImportError:
            missing.append(package)
    return missing


def score(metrics: Sequence[Metric], predictions: Sequence[Prediction]) -> Scores:
    """Compare answers with what was expected.

    Args:
        metrics: As `find_metrics` gives them.
        predictions: The answers.

    Raises:
        EvaluationError: A function of yours failed, or gave what are no numbers.
    """
    rows: list[dict[str, float]] = [{} for _ in predictions]
    summary: dict[str, Score] = {}
    idle = []
    for metric in metrics if predictions else ():
        measured = metric.measure(predictions)
        for row, found in zip(rows, measured.rows, strict=True):
            row.update(found)
        summary |= _summarize(measured.sums)
        for name, value in measured.fixed.items():
            summary[name] = Score(mean=value, low=None, high=None, n=len(predictions))
        if not measured.sums and not measured.fixed:
            idle.append(metric.name)
    return Scores(rows=rows, summary=summary, idle=tuple(idle))


def _summarize(values: Mapping[str, Sums]) -> dict[str, Score]:
    intervals = find_intervals(values)
    return {
        name: Score(
            mean=float(sums.combine(sums.terms.sum(axis=0, keepdims=True))[0]),
            low=intervals[name][0],
            high=intervals[name][1],
            n=len(sums.terms),
        )
        for name, sums in values.items()
    }
