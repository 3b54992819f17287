"""Compares runs: different keys of their recipes, results, time and memory."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs

from ...recipe.parse import all_keys
from ..charts.chart import Chart, Line
from .figures import OTHERS, SFT, VALID_LOSS, is_higher_better, loss_unit, name_score, score_names, score_series
from .run_files import RunError, RunRecord, Series, read_run
from .run_page import EPOCHS_OF, ROWS_OF, format_seconds, write_value

FEWEST_RUNS = 2

PREFERENCE = "preference."
"""The section of objectives other than `SFT`."""


@attrs.frozen(kw_only=True)
class Row:
    """A number of all runs.

    Attributes:
        name: What it is.
        cells: As it is written, one for each run; empty where a run has none.
        best: Which run has the best one; None where none is better.
        values: As numbers, one for each run, None where a run has none; empty where they are no numbers.
    """

    name: str
    cells: tuple[str, ...]
    best: int | None = None
    values: tuple[float | None, ...] = attrs.field(default=(), eq=False)


@attrs.frozen(kw_only=True, eq=False)
class Comparison:
    """A comparison of runs.

    Attributes:
        names: Short distinct names.
        runs: The runs.
        recipe: Keys whose values differ, with all values.
        numbers: Scores, speed, memory and time.
        charts: Curves of all runs over one another, losses first.
        of_one_loss: Whether all runs have the same loss; other losses are not better or worse than one another.
    """

    names: tuple[str, ...]
    runs: tuple[RunRecord, ...]
    recipe: tuple[Row, ...]
    numbers: tuple[Row, ...]
    charts: tuple[Chart, ...]
    of_one_loss: bool = True


def compare_runs(places: Sequence[Path | str]) -> Comparison:
    """Read runs and compare them.

    Args:
        places: Folders of runs, or adapters in them.

    Raises:
        RunError: There are fewer than two runs, one is not a run, or one is given twice.
    """
    if len(places) < FEWEST_RUNS:
        msg = f"found {len(places)} run to compare; give the folders of two or more"
        raise RunError(msg)
    runs = tuple(read_run(place) for place in places)
    seen: dict[Path, Path | str] = {}
    for place, run in zip(places, runs, strict=True):
        folder = run.folder.resolve()
        if folder in seen:
            msg = f"{place}: is of the same run as {seen[folder]}; give it once"
            raise RunError(msg)
        seen[folder] = place
    names = name_folders([run.folder for run in runs])
    return Comparison(
        names=tuple(names),
        runs=runs,
        recipe=tuple(_compare_recipes(runs)),
        numbers=tuple(row for row in _compare_numbers(runs) if any(row.cells)),
        charts=tuple(_draw_over(runs, names)),
        of_one_loss=have_one_loss(runs),
    )


def have_one_loss(runs: Sequence[RunRecord]) -> bool:
    """Whether runs have the same objective with the same settings, so that their losses can be compared."""
    settings = []
    for run in runs:
        objective = run.recipe.get("train.objective", SFT)
        of_preference = {} if objective == SFT else {k: v for k, v in run.recipe.items() if k.startswith(PREFERENCE)}
        settings.append((objective, loss_unit(run), of_preference))
    return all(found == settings[0] for found in settings)


def name_folders(folders: Sequence[Path]) -> list[str]:
    """Name folders by the shortest ends of their paths that are distinct."""
    parts = [folder.resolve().parts for folder in folders]
    names = [""] * len(parts)
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(found[-count:]) for found in parts]
        if len(set(names)) == len(names):
            break
    return names


def _compare_recipes(runs: Sequence[RunRecord]) -> Iterable[Row]:
    missing = object()
    for key in dict.fromkeys([*all_keys(), *(key for run in runs for key in run.recipe)]):
        values: list[Any] = [run.recipe.get(key, missing) for run in runs]
        if key == "output.path" or all(value == values[0] for value in values):
            continue
        yield Row(name=key, cells=tuple("" if value is missing else write_value(value) for value in values))


def _compare_numbers(runs: Sequence[RunRecord]) -> Iterable[Row]:
    yield Row(name="steps", cells=tuple(f"{run.step:,}" for run in runs), values=tuple(run.step for run in runs))
    for name in dict.fromkeys(name for run in runs for name in score_names(run)):
        rows = _compare_score(name, runs)
        is_comparable = name != VALID_LOSS or have_one_loss(runs)
        yield from rows if is_comparable else (attrs.evolve(row, best=None) for row in rows)
    for name, series in (("last train loss", "loss"), ("mean train loss", "running_loss")):
        row = _row(name, [run[series].last for run in runs], "{:.4f}".format)
        yield row if have_one_loss(runs) else attrs.evolve(row, best=None)
    for name in dict.fromkeys(name for run in runs for name in run.series if name.startswith(ROWS_OF)):
        source = name.removeprefix(ROWS_OF)
        yield Row(name=f"rows of {source}", cells=tuple(_write_use(run, source) for run in runs))
    speeds = [run["tokens_per_s"].median for run in runs]
    yield _row("tokens/s, median", speeds, "{:,.0f}".format, is_higher_better=True)
    peaks = [max(run["peak_memory_gb"].values, default=None) for run in runs]
    yield _row("peak memory, GB", peaks, "{:.2f}".format)
    yield _row("time", [run["seconds"].last for run in runs], format_seconds)
    yield _row("waited for rows", [_waited(run) for run in runs], format_seconds)
    if any(run.resumed for run in runs):
        yield Row(name="went on behind", cells=tuple(", ".join(f"{step:,}" for step in run.resumed) for run in runs))
    if any(run.device != runs[0].device for run in runs):
        yield Row(name="device", cells=tuple(run.device for run in runs))


def _write_use(run: RunRecord, source: str) -> str:
    """Write how many rows of a source a run has learned, and how many epochs they are if it says so."""
    rows, epochs = run[ROWS_OF + source].last, run[EPOCHS_OF + source].last
    if rows is None:
        return ""
    return f"{rows:,.0f}" if epochs is None else f"{rows:,.0f} ({epochs:.2f} epochs)"


def _compare_score(name: str, runs: Sequence[RunRecord]) -> Iterable[Row]:
    """Yield a score's best value, the step of it, and its last value."""
    is_higher, label = is_higher_better(name), name_score(name)
    series = [score_series(name, run) for run in runs]
    best = [found.best(is_higher_better=is_higher) for found in series]
    values = [None if found is None else found[1] for found in best]
    yield _row(f"best {label}", values, "{:.4f}".format, is_higher_better=is_higher)
    steps = tuple(None if found is None else found[0] for found in best)
    yield Row(name="  at step", cells=tuple("" if step is None else f"{step:,}" for step in steps), values=steps)
    yield _row(f"last {label}", [found.last for found in series], "{:.4f}".format, is_higher_better=is_higher)


def _row(
    name: str, values: Sequence[float | None], write: Callable[[float], str], *, is_higher_better: bool = False
) -> Row:
    """Format a number of all runs, and find the best one; None if several are equal as they are written."""
    known = [value for value in values if value is not None]
    best = (max if is_higher_better else min)(known, default=None)
    cells = tuple("" if value is None else write(value) for value in values)
    is_one = best is not None and len(known) > 1 and cells.count(write(best)) == 1
    return Row(name=name, cells=cells, best=list(values).index(best) if is_one else None, values=tuple(values))


def _waited(run: RunRecord) -> float | None:
    return math.fsum(run["wait_s"].values) if run["wait_s"].values else None


def _draw_over(runs: Sequence[RunRecord], names: Sequence[str]) -> Iterable[Chart]:
    """Yield the charts with data of at least one run."""
    units = {loss_unit(run) for run in runs}
    unit = units.pop() if len(units) == 1 else ""
    charts = [
        _chart("Validation loss", unit, VALID_LOSS, runs, names),
        _chart("Train loss, per report", unit, "loss", runs, names),
    ]
    for name in dict.fromkeys(name for run in runs for name in score_names(run) if name != VALID_LOSS):
        lines = [score_series(name, run) for run in runs]
        title = name_score(name)
        charts.append(_over(title[0].upper() + title[1:], "", lines, names, is_log=False))
    for title, unit, numbers in OTHERS:
        name = next(iter(numbers))
        charts.append(_chart(title, unit, name, runs, names))
    return [chart for chart in charts if chart.has_points]


def _chart(title: str, unit: str, name: str, runs: Sequence[RunRecord], names: Sequence[str]) -> Chart:
    return _over(title, unit, [run[name] for run in runs], names)


def _over(
    title: str, unit: str, series: Sequence[Series], names: Sequence[str], *, is_log: bool | None = None
) -> Chart:
    lines = tuple(Line(name=name, xs=found.steps, ys=found.values) for name, found in zip(names, series, strict=True))
    return Chart(title=title, y_label=unit, lines=lines, is_log=is_log)
