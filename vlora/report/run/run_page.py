"""The page of a run: its reports, its answers, its recipe, and the command that resumes it."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs
from markupsafe import Markup

from ...facts import SourceUse
from ...recipe.parse import all_keys, dump_recipe, flatten_recipe
from ...recipe.schema import DataSection, Recipe
from ...system.redaction import redact
from ..charts.chart import Chart
from ..charts.layout import lay_out
from ..charts.svg import draw_svg
from ..page import render
from .answers import AnsweredRow
from .figures import (
    HIGH,
    LOW,
    VALID_LOSS,
    is_higher_better,
    loss_chart,
    metric_charts,
    name_score,
    other_charts,
    preference_charts,
    score_names,
    score_series,
)
from .run_files import RunRecord

NARROW, WIDE = (352, 230), (820, 472)
"""Widths and heights of charts: of all charts on a small screen, of the losses on a large one, where two others are
beside them. They are drawn no smaller, so that their texts stay readable."""

N_ASIDE = 2
"""Charts beside the main one."""

ROWS_OF, EPOCHS_OF, TOKENS_OF = "rows/", "epochs/", "tokens/"
"""Prefixes of what was learned of each source of a mixture."""


@attrs.frozen(kw_only=True)
class RunFacts:
    """Facts about a run besides its files.

    Attributes:
        status: "training", "over", "stopped" or "failed".
        n_steps: Steps of the whole run; 0 where that is not known.
        facts: Pairs of a name and a value.
        versions: Versions of programs by name.
        notes: Warnings.
        go_on: The command that resumes it.
        ask: The command that asks the trained model; empty if there is none.
        ask_best: The command that asks the best one, where that is kept and is another.
        unasked: Why it cannot be asked; empty if it can.
    """

    status: str
    n_steps: int = 0
    facts: tuple[tuple[str, str], ...] = ()
    versions: Mapping[str, str] = attrs.field(factory=dict)
    notes: tuple[str, ...] = ()
    go_on: str = ""
    ask: str = ""
    ask_best: str = ""
    unasked: str = ""


@attrs.frozen(kw_only=True)
class Score:
    """The course of a score.

    Attributes:
        name: Its name.
        first: Its first value, and the step.
        best: Its best one.
        last: Its last one, with its interval if it has one.
    """

    name: str
    first: str
    best: str
    last: str


def make_page(run: RunRecord, facts: RunFacts, answers: Sequence[AnsweredRow], now: datetime) -> str:
    """Make the page of a run.

    Args:
        run: Its numbers and recipe.
        facts: Further facts about it.
        answers: Held-out rows with their answers.
        now: When that was.
    """
    changed, defaults = split_recipe(run.recipe)
    metrics = draw_charts([*preference_charts(run), *metric_charts(run)], "metric")
    others = draw_charts(other_charts(run), "other")
    n_metrics = min(N_ASIDE, len(metrics))
    n_others = min(N_ASIDE - n_metrics, len(others))
    return render(
        "run.html.j2",
        "charts.css",
        "run.css",
        run=run,
        facts=facts,
        name="/".join(run.folder.resolve().parts[-2:]),
        written=f"{now:%Y-%m-%d %H:%M:%S}",
        summary=list(_summarize(run, facts)),
        intervals=any(name.endswith(LOW) for name in run.series),
        scores=list(list_scores(run)),
        sources=list(list_sources(run)),
        losses=draw_chart(loss_chart(run), "loss", is_main=True),
        aside=metrics[:n_metrics] + others[:n_others],
        metrics=metrics[n_metrics:],
        others=others[n_others:],
        answers=answers,
        changed=changed,
        defaults=defaults,
    )


def draw_chart(chart: Chart, name: str, *, is_main: bool = False) -> Markup | None:
    """Draw a chart for a page; None if it has no points.

    Args:
        chart: The chart.
        name: Its own among those of the page, a word.
        is_main: Whether to draw it for large screens, too; a page shows one of the two.
    """
    if not chart.has_points:
        return None
    small = draw_svg(lay_out(chart, *NARROW), name)
    if is_main:
        large = draw_svg(lay_out(chart, *WIDE), f"{name}-wide")
        small = f'<div class="narrow">{small}</div><div class="wide">{large}</div>'
    return Markup(small)  # noqa: S704 - all texts in it are escaped


def draw_charts(charts: Iterable[Chart], kind: str) -> list[Markup]:
    """Draw charts that have points, as `draw_chart` does; `kind` begins their names."""
    drawn = (draw_chart(chart, f"{kind}-{number}") for number, chart in enumerate(charts))
    return [chart for chart in drawn if chart is not None]


def split_recipe(recipe: Mapping[str, Any]) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
    """Partition a recipe's keys.

    Args:
        recipe: Values by dotted key, defaults too.

    Returns:
        (key, value, default) of those that differ from the defaults, and (key, value) of the others.
    """
    known = default_values()
    changed, others = [], []
    for key in dict.fromkeys([*all_keys(), *recipe]):
        if key not in recipe:
            continue
        value, default = recipe[key], known.get(key)
        if value == default:
            others.append((key, write_value(value)))
        else:
            changed.append((key, write_value(value), "" if default is None else write_value(default)))
    return changed, others


def default_values() -> dict[str, Any]:
    """Return the defaults of all keys that have one, by dotted key."""
    found = flatten_recipe(dump_recipe(Recipe(data=DataSection(path="-"))))
    return {key: value for key, value in found.items() if key != "data.path"}


def write_value(value: Any) -> str:
    """Format a value of a recipe like TOML, without secrets: pages are shown to others."""
    return redact(json.dumps(value, ensure_ascii=False))


def format_seconds(seconds: float) -> str:
    """Write a time: "1 h 02 min", "3 min 20 s", "12.3 s"."""
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _summarize(run: RunRecord, facts: RunFacts) -> Iterator[tuple[str, str]]:
    """Yield the pairs of name and value at the top of the page."""
    total = f" of {facts.n_steps:,}" if facts.n_steps else ""
    yield "steps", f"{run.step:,}{total}"
    if (seconds := run["seconds"].last) is not None:
        yield "time", format_seconds(seconds)
    if (loss := run["loss"].last) is not None:
        yield "loss", f"{loss:.4f}"
    if (best := run[VALID_LOSS].best()) is not None:
        yield "best validation loss", f"{best[1]:.4f} at step {best[0]:,}"
    if (speed := run["tokens_per_s"].median) is not None:
        yield "median speed", f"{speed:,.0f} tokens/s"
    if (memory := run["peak_memory_gb"].last) is not None:
        yield "peak memory", f"{memory:.2f} GB"
    if run.device:
        yield "device", run.device
    if run.resumed:
        yield "went on behind step", ", ".join(f"{step:,}" for step in run.resumed)
    yield from facts.facts


def list_sources(run: RunRecord) -> Iterator[SourceUse]:
    """Yield what was learned of each of several sources of rows."""
    for name in run.series:
        if name.startswith(ROWS_OF):
            source = name.removeprefix(ROWS_OF)
            n_rows, n_tokens = (int(run[f"{kind}{source}"].last or 0) for kind in (ROWS_OF, TOKENS_OF))
            yield SourceUse(name=source, n_rows=n_rows, epochs=run[EPOCHS_OF + source].last, n_tokens=n_tokens)


def list_scores(run: RunRecord) -> Iterator[Score]:
    """Yield the course of the validation loss and of each metric."""
    for name in score_names(run):
        series = score_series(name, run)
        best = series.best(is_higher_better=is_higher_better(name))
        low, high = run[name + LOW].last, run[name + HIGH].last
        # The ends of the interval of the last value.
        interval = "" if low is None or high is None else f" ({low:.4f} to {high:.4f})"
        yield Score(
            name=name_score(name),
            first=f"{series.values[0]:.4f} at step {series.steps[0]:,}",
            best="" if best is None else f"{best[1]:.4f} at step {best[0]:,}",
            last=f"{series.values[-1]:.4f}{interval} at step {series.steps[-1]:,}",
        )
