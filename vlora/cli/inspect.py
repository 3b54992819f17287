"""`python -m vlora inspect`: the first rows as the model will see them, or the counts of all."""

import argparse
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from ..events import Columns, TemplateUse
from ..recipe.schema import Recipe
from .arguments import Parser, make_recipe_parser, positive
from .importing import importing
from .screen import Screen
from .sentences import describe_columns, describe_template
from .status import DONE, USER_ERROR

if TYPE_CHECKING:
    from ..report.census import Census
    from ..report.inspect import Inspected

EXAMPLES = (
    "inspect my.toml",
    "inspect my.toml --rows 10",
    "inspect my.toml --all # count rows, tokens, images and refusals",
    "inspect my.toml --rows 100 --json # for programs",
)

STYLES = {"supervised": "bold green", "context": "dim", "image": "cyan"}
MARKS = {"supervised": "[{}]", "context": "{}", "image": "<{}>"}
"""How tokens are marked where there are no colours: supervised ones stand in brackets."""

SHOWN_REASONS = 20
"""Reasons for which rows are refused that are shown."""


def make_parser() -> Parser:
    """Make the parser of the command's arguments."""
    about = "Show the first rows as the model will see them, or count all of them."
    parser = make_recipe_parser("inspect", about, EXAMPLES)
    parser.add_argument("--rows", type=positive(int), default=3, help="how many rows (3)")
    parser.add_argument("--all", action="store_true", default=False, help="count all rows; decodes no images")
    return parser


def prepare(parsed: argparse.Namespace) -> Callable[[Screen], int]:
    """Give what carries out the command."""
    if parsed.all:
        return functools.partial(show_census, parsed.recipe)
    return functools.partial(show_rows, parsed.recipe, parsed.rows)


def show_rows(recipe: Recipe, n_rows: int, console: Screen) -> int:
    """Show the first rows as the model will see them.

    Returns:
        0, or 2 if a row cannot be learned from.
    """
    with importing(recipe):
        from ..report.inspect import inspect_rows
    n_bad = n_shown = 0
    columns, templates = Columns(), list[TemplateUse]()
    for row in inspect_rows(recipe, n_rows, templates.append):
        n_shown += 1
        n_bad += row.problem is not None
        console.tell(row)
        _show_row(row, console)
        columns = row.columns
    for template in templates:
        console.tell(template)
        _say(console, f"chat template: {describe_template(template)}")
    _say(console, f"columns: {describe_columns(columns)}")
    verdict = "all of them can be learned from" if not n_bad else f"{n_bad} cannot be learned from"
    if n_shown == 1:
        verdict = "it can be learned from" if not n_bad else "it cannot be learned from"
    with console.result():
        console.print(f"{_count(n_shown)}: {verdict}", style="bold red" if n_bad else "bold")
    return USER_ERROR if n_bad else DONE


def show_census(recipe: Recipe, console: Screen) -> int:
    """Count all rows, with a bar where there is a terminal, and show the counts of each data set.

    Returns:
        0, or 2 if a row cannot be learned from.
    """
    with importing(recipe):
        from ..report.census import count_rows
    shown: list[Census] = []
    with _make_bar(console) as bar:
        for census in count_rows(recipe):
            if not census.n_seen:
                shown.append(census)
                if bar is not None:
                    bar.add_task(census.name, total=census.n_rows)
            elif bar is not None:
                bar.update(bar.task_ids[-1], completed=census.n_seen)
    for census in shown:
        console.tell(census)
        _show_counts(census, console)
    n_refused = sum(census.n_refused for census in shown)
    n_rows = sum(census.n_rows for census in shown)
    verdict = "no row is refused" if not n_refused else f"{n_refused:,} cannot be learned from"
    with console.result():
        console.print(f"{_count(n_rows)}: {verdict}", style="bold red" if n_refused else "bold")
    return USER_ERROR if n_refused else DONE


def _show_row(row: "Inspected", console: Screen) -> None:
    console.print(Text(row.source, style="bold"))
    if row.problem is not None:
        problem = row.problem.removeprefix(f"{row.source}: ")
        console.print(Text(f"  {problem}", style="red"), soft_wrap=True)
        return
    sizes = ", ".join(f"{width}x{height}" for width, height in row.image_sizes) or "none"
    if row.cut is not None:
        lost = f"; {row.cut.n_lost:,} supervised ones are lost" if row.cut.n_lost else ""
        found = f"  cut from {row.cut.n_tokens:,} to {row.cut.n_kept:,} tokens by data.max_seq_length{lost}"
        console.print(found, style="yellow")
    console.print(
        f"  {row.n_text} text tokens, {row.n_image} image tokens, {row.n_supervised} supervised; images: {sizes}"
    )
    line = Text()
    for piece in row.pieces:
        mark = "{}" if console.is_terminal and piece.kind != "image" else MARKS[piece.kind]
        line.append(mark.format(piece.text), style=STYLES[piece.kind])
    console.print(line, soft_wrap=True)


def _show_counts(census: "Census", console: Screen) -> None:
    console.print(Text(census.name, style="bold"))
    for line in (
        f"chat template: {describe_template(census.template)}",
        f"columns: {describe_columns(census.columns)}",
        f"no picture was decoded; {census.method}",
        f"rows: {census.n_rows:,}",
        f"tokens: {census.n_tokens:,}, {census.n_image_tokens:,} of them for images; "
        f"the longest row has {census.longest:,}" + (f" ({census.longest_source})" if census.longest else ""),
        f"supervised tokens: {census.n_supervised:,}",
        f"images: {census.n_images:,}",
        f"cut rows: {census.cuts.n_rows:,}" + (f"; {census.cuts.describe_losses()}" if census.cuts.n_rows else ""),
        f"duplicates: {census.n_duplicates:,}" + (f"; first: {census.first_duplicate}" * bool(census.n_duplicates)),
    ):
        _say(console, f"  {line}")
    if census.left_out:
        _say(console, f'  left out: {census.left_out:,}, by data.on_long_row = "skip"')
    _say(console, f"  refused rows: {census.n_refused:,}")
    reasons = sorted(census.refused.values(), key=lambda refusal: -refusal.n_rows)
    for refusal in reasons[:SHOWN_REASONS]:
        _say(console, f"    {refusal.n_rows:,} such as {refusal.first}")
    if len(reasons) > SHOWN_REASONS:
        _say(console, f"    and for {len(reasons) - SHOWN_REASONS:,} reasons more")


def _count(n_rows: int) -> str:
    return f"{n_rows:,} row{'s' * (n_rows != 1)}"


def _make_bar(console: Screen) -> AbstractContextManager[Progress | None]:
    if not console.is_terminal or console.mode != "all":
        return nullcontext()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True)


def _say(console: Screen, line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)
