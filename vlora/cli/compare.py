"""`python -m vlora compare`: compares runs, in the terminal or on a page."""

import argparse
import functools
import textwrap
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ..system.nouns import with_noun
from .arguments import Parser, named, named_path
from .arguments import make_parser as make_plain_parser
from .screen import Screen
from .status import DONE

if TYPE_CHECKING:
    from ..report.charts.chart import Chart
    from ..report.run.comparison import Comparison, Row

MOST_COLUMNS, LEAST_CELL = 100, 13
"""Most columns of the screen that are used, and fewest columns for the numbers of one run."""

N_CHARTS, CHART_HEIGHT = 2, 12
"""Number of charts drawn in the terminal, and lines of each."""


NOTHING = "-"
"""Stands for a value that a run does not have."""


def make_parser() -> Parser:
    """Make the parser of the command's arguments."""
    about = "Compare runs: the keys in which their recipes differ, their results, and the time and memory they took."
    parser = make_plain_parser(
        "compare", about, ("compare runs/first runs/second", "compare runs/* --html runs.html # a page with all curves")
    )
    parser.add_argument(
        "runs", nargs="+", type=named, metavar="run", help="the folder of a run, or an adapter in it; two or more"
    )
    parser.add_argument("--html", type=named_path, metavar="FILE", help="write a page with all curves to this file")
    return parser


def prepare(parsed: argparse.Namespace) -> Callable[[Screen], int]:
    """Give what carries out the command."""
    return functools.partial(show_comparison, parsed.runs, parsed.html)


def show_comparison(places: Sequence[str], page: Path | None, console: Screen) -> int:
    """Print a comparison of runs, and write the page if one is asked for.

    Returns:
        0.
    """
    from ..output.named_files import open_named, write_named
    from ..report.page import is_page
    from ..report.run.comparison import compare_runs

    target = None if page is None else open_named(page, "--html", is_page)
    comparison = compare_runs(places)
    console.tell(
        "Comparison",
        runs=[run.folder for run in comparison.runs],
        numbers=comparison.numbers,
        recipe=comparison.recipe,
    )
    with console.result():
        for line in write_comparison(comparison, min(console.width, MOST_COLUMNS) - 1):
            console.print(line, markup=False, soft_wrap=True)
    if target is not None:
        from ..report.run.compare_page import make_comparison_page

        write_named(target, make_comparison_page(comparison, datetime.now().astimezone()))
        console.print(f"page: {target}", markup=False, soft_wrap=True)
    return DONE


def write_comparison(comparison: "Comparison", width: int) -> Iterator[str]:
    """Yield the lines of a comparison.

    Args:
        comparison: The runs.
        width: Longest line in characters; single names and values may be longer.
    """
    from ..report.charts.plot import letter_of

    for number, run in enumerate(comparison.runs):
        damaged = f" ({with_noun(run.n_damaged, 'damaged line', commas=False)} passed over)" if run.n_damaged else ""
        yield f"{letter_of(number)}  {run.folder}{damaged}"
    yield ""
    yield from _write_table("numbers (* the better one)", comparison.numbers, width)
    if not comparison.of_one_loss:
        yield "losses of different objectives are not compared"
    yield ""
    if comparison.recipe:
        yield from _write_table("recipe keys that differ", comparison.recipe, width)
    else:
        yield "the recipes differ in output.path at most"
    for chart in comparison.charts[:N_CHARTS]:
        yield ""
        yield from _write_chart(chart, width)


def _write_table(title: str, rows: "Sequence[Row]", width: int) -> Iterator[str]:
    """Yield tables with a column per run, as many as the width requires; long values are listed below one another."""
    from ..report.charts.plot import letter_of

    n_runs = len(rows[0].cells)
    head = max(len(title), *(len(row.name) for row in rows))
    per_table = max(1, (width - head) // (LEAST_CELL + 1))
    for start in range(0, n_runs, per_table):
        runs = range(start, min(start + per_table, n_runs))
        room = (width - head) // len(runs) - 1
        cell = min(room, max(LEAST_CELL, *(len(row.cells[run]) + 2 for row in rows for run in runs)))
        if start:
            yield ""
        yield f"{title:<{head}}" + "".join(f" {letter_of(run):>{cell}}" for run in runs)
        for row in rows:
            if max(len(row.cells[run]) for run in runs) + 2 <= cell:
                cells = [row.cells[run] + (" *" if row.best == run else "  ") for run in runs]
                yield (f"{row.name:<{head}}" + "".join(f" {text:>{cell}}" for text in cells)).rstrip()
            else:
                yield row.name
                for run in runs:
                    yield from _wrap(f"  {letter_of(run)}  {row.cells[run] or NOTHING}", width)


def _wrap(text: str, width: int) -> list[str]:
    lines = textwrap.wrap(text, width, subsequent_indent=" " * 5, drop_whitespace=False, break_on_hyphens=False)
    return [line.rstrip() for line in lines]


def _write_chart(chart: "Chart", width: int) -> Iterator[str]:
    from ..report.charts.plot import SEVERAL, draw_text

    yield from _wrap(f"{chart.title}{', ' if chart.y_label else ''}{chart.y_label} ({SEVERAL} where runs meet)", width)
    yield from draw_text(chart, width, CHART_HEIGHT)
