"""All metrics by their names, and the scores of answers."""

import difflib
import importlib
from collections.abc import Sequence

import attrs

from ..errors import RecipeError
from .bootstrap import find_interval
from .metric import Metric, Sums, by_row
from .prediction import Prediction
from .text import contains, exact_match, exact_match_strict, token_f1

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        by_row("exact_match", exact_match),
        by_row("exact_match_strict", exact_match_strict),
        by_row("contains", contains),
        by_row("token_f1", token_f1),
    )
}
"""Names to metrics; README has a table of them."""

MEANINGS = {
    "accuracy": "exact_match",
    "acc": "exact_match",
    "em": "exact_match",
    "exact": "exact_match",
    "f1": "token_f1",
    "squad": "token_f1",
}
"""Other names under which metrics are known."""


@attrs.frozen(kw_only=True)
class Score:
    """The value of a metric over all rows that it applies to.

    Attributes:
        mean: The mean of the rows' values; for BLEU, chrF, CER and WER that of the rows taken as one text.
        low: The lower end of its interval (bootstrap, 95 %); None where a function of yours gave one number for all.
        high: The upper end.
        n: How many rows it applies to.
    """

    mean: float
    low: float | None
    high: float | None
    n: int


@attrs.frozen(kw_only=True)
class Scores:
    """What metrics say of answers.

    Attributes:
        rows: A dict for each answer, names to values; a metric that does not apply to a row is left out.
        summary: Names to values over all rows; a metric that applies to no row is left out.
    """

    rows: list[dict[str, float]]
    summary: dict[str, Score]


def find_metrics(names: Sequence[str]) -> tuple[Metric, ...]:
    """Find metrics by their names, and import what they need.

    Args:
        names: As `eval.metrics` has them.

    Raises:
        RecipeError: There is none of such a name, a name stands twice, or a package is not installed.
    """
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        msg = f"eval.metrics: found {twice[0]!r} twice; name each metric once"
        raise RecipeError(msg)
    metrics = tuple(map(_find_metric, names))
    missing = sorted({package for metric in metrics for package in _find_missing(metric)})
    if missing:
        needy = [metric.name for metric in metrics if set(_find_missing(metric)) & set(missing)]
        msg = (
            f"eval.metrics: {', '.join(needy)} need {', '.join(missing)}, which cannot be imported; "
            f"`python -m pip install {' '.join(missing)}` brings what they need"
        )
        raise RecipeError(msg)
    return metrics


def _find_metric(name: str) -> Metric:
    if name in METRICS:
        return METRICS[name]
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    near = MEANINGS.get(plain) or next(iter(difflib.get_close_matches(plain, METRICS, n=1)), None)
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
    for metric in metrics if predictions else ():
        measured = metric.measure(predictions)
        for row, found in zip(rows, measured.rows, strict=True):
            row.update(found)
        summary |= {name: _summarize(sums) for name, sums in measured.sums.items()}
        for name, value in measured.fixed.items():
            summary[name] = Score(mean=value, low=None, high=None, n=len(predictions))
    return Scores(rows=rows, summary=summary)


def _summarize(sums: Sums) -> Score:
    low, high = find_interval(sums)
    value = float(sums.combine(sums.terms.sum(axis=0, keepdims=True))[0])
    return Score(mean=value, low=low, high=high, n=len(sums.terms))
