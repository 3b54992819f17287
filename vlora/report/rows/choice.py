"""Which rows are looked at: the first, those of given numbers, the longest, or those that a model answered worst."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import attrs

from ...data.rows import RowDataset
from ...errors import RecipeError
from ...evaluation.metrics import METRICS
from ...evaluation.prediction import Prediction, read_predictions


@attrs.frozen(kw_only=True)
class Choice:
    """What was asked for on the command line.

    Attributes:
        n: How many rows: the first ones, or the worst.
        numbers: Numbers of rows, as messages have them, instead of the first ones.
        n_longest: How many of the longest rows, instead of the first ones.
        worst: A file of predictions, of which the worst are shown.
        metric: By which they are the worst; None for the first of the file.
    """

    n: int
    numbers: tuple[int, ...] = ()
    n_longest: int | None = None
    worst: Path | None = None
    metric: str | None = None


@attrs.frozen(kw_only=True)
class Chosen:
    """A row that is looked at.

    Attributes:
        rows: The data set that it is of.
        index: Its place there.
        prediction: What a model answered to it; None where that is not asked.
        scores: What metrics say of the answer.
    """

    rows: RowDataset
    index: int
    prediction: Prediction | None = None
    scores: dict[str, float] = attrs.field(factory=dict)

    @property
    def source(self) -> str:
        """Its name, as messages have it."""
        return self.rows.name_row(self.index)


def choose_rows(choice: Choice, data_sets: Sequence[RowDataset], longest: Iterable[int] = ()) -> list[Chosen]:
    """Find the rows that are asked for.

    Args:
        choice: What was asked for.
        data_sets: The rows to train on, then those to validate on if there are any.
        longest: Numbers of the longest rows to train on, if they are asked for.

    Raises:
        RecipeError: There is no such row.
        EvaluationError: The predictions cannot be read.
    """
    if choice.worst is not None:
        return _choose_worst(choice, choice.worst, data_sets)
    if choice.n_longest is not None:
        places = {int(number): index for index, number in enumerate(data_sets[0].indices)}
        return [Chosen(rows=data_sets[0], index=places[number]) for number in longest]
    if choice.numbers:
        # Rows that are held out are of the same table.
        own = [rows for rows in data_sets if rows is data_sets[0] or rows.name == data_sets[0].name]
        return [chosen for number in choice.numbers for chosen in _find(number, own)]
    return [Chosen(rows=data_sets[0], index=index) for index in range(min(choice.n, len(data_sets[0])))]


def _find(number: int, data_sets: Sequence[RowDataset]) -> list[Chosen]:
    """Find the row of a number; of several sources the row of each that has one."""
    found = [Chosen(rows=rows, index=index) for rows in data_sets for index in rows.find_numbered(number)]
    if found:
        return found
    lowest, highest = zip(*(each.number_range() for each in data_sets), strict=True)
    msg = f"--rows: {data_sets[0].title} has no row {number}; its rows are {min(lowest):,} to {max(highest):,}"
    raise RecipeError(msg)


def _choose_worst(choice: Choice, path: Path, data_sets: Sequence[RowDataset]) -> list[Chosen]:
    """Find the rows of the worst answers, the worst first."""
    answered = list(_find_answered(path, data_sets))
    if not answered:
        names = " and ".join(dict.fromkeys(rows.name for rows in data_sets))
        msg = f"--worst: no answer of {path} is to a row of {names}; give answers to rows of this recipe"
        raise RecipeError(msg)
    scored = list(dict.fromkeys(name for row in answered for name in row.scores))
    metric = choice.metric or next(iter(scored), None)
    if metric is None or metric not in scored:
        known = f"it has {', '.join(scored)}" if scored else "it has none; score the answers with eval.metrics"
        msg = (
            f"--by: {path} has no scores of {metric!r}; {known}"
            if metric
            else f"--worst: {path} has no scores; {known}"
        )
        raise RecipeError(msg)
    is_higher_better = metric not in METRICS or METRICS[metric].is_higher_better

    def goodness(row: Chosen) -> float:
        score = row.scores.get(metric, math.nan)
        # Rows that the metric does not apply to come last.
        return math.inf if math.isnan(score) else score if is_higher_better else -score

    return sorted(answered, key=goodness)[: choice.n]


def _find_answered(path: Path, data_sets: Sequence[RowDataset]) -> Iterator[Chosen]:
    """Yield the rows that predictions are of; the last answer to each."""
    places = {rows.name_row(index): (rows, index) for rows in data_sets for index in range(len(rows))}
    found: dict[str, Chosen] = {}
    for prediction, scores in read_predictions(path):
        place = places.get(prediction.row)
        if place is not None:
            rows, index = place
            found[prediction.row] = Chosen(rows=rows, index=index, prediction=prediction, scores=scores)
    yield from found.values()
