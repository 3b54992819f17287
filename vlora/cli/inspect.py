"""`python -m vlora inspect`: shows rows as the model will see them, counts all rows, or writes a page with both."""

import argparse
import functools
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from ..errors import RecipeError
from ..events import Working
from ..facts import Columns
from ..recipe.schema import Recipe
from ..system.files import expand
from ..system.nouns import with_noun
from .arguments import Parser, make_recipe_parser, named, positive
from .importing import importing
from .screen import Screen
from .sentences import describe_columns, describe_template
from .status import DONE, USER_ERROR

if TYPE_CHECKING:
    from ..build import Data
    from ..report.census import Census
    from ..report.inspect import Inspected, Piece
    from ..report.rows.choice import Choice, Chosen

EXAMPLES = (
    "inspect my.toml",
    "inspect my.toml --rows 3,7-9",
    "inspect my.toml --all # count rows, tokens, images and refusals",
    "inspect my.toml --all --decode # and find damaged images",
    "inspect my.toml --html rows.html # a page of counts and rows",
    "inspect my.toml --worst predictions.jsonl",
    "inspect my.toml --rows 100 --json # for programs",
)

STYLES = {"supervised": "bold green", "context": "dim", "image": "cyan"}
MARKS = {"supervised": "[{}]", "context": "{}", "image": "<{}>"}
"""Formats of tokens where the terminal has no colours: supervised ones stand in brackets."""

FEW, MANY = 3, 20
"""Default number of rows: in the terminal, and on a page."""

MOST_ROWS = 500
"""Most rows that can be chosen by their numbers."""

_RANGE = re.compile(r"\s*(\d{1,12})\s*(?:-\s*(\d{1,12})\s*)?", re.ASCII)

ALL_AND_ROWS = "--all: counts all rows and shows none; leave --rows out, or write both with --html FILE"

SHOWN_REASONS = 20
"""Most reasons for refused rows that are listed."""


def make_parser() -> Parser:
    """Make the parser of the command's arguments."""
    about = "Show rows as the model will see them, count all of them, or write a page that shows both."
    parser = make_recipe_parser("inspect", about, EXAMPLES)
    parser.add_argument("--rows", type=row_numbers, default=None, help="how many rows (3), or which (3,7-9)")
    parser.add_argument("--longest", type=positive(int), default=None, metavar="N", help="the longest rows to train on")
    parser.add_argument(
        "--worst", type=named, default=None, metavar="FILE", help="the worst answers of a predictions.jsonl"
    )
    parser.add_argument(
        "--by", type=named, default=None, metavar="METRIC", help="by which they are the worst (its first)"
    )
    parser.add_argument("--all", action="store_true", default=False, help="count all rows, images by their headers")
    parser.add_argument(
        "--decode", action="store_true", default=False, help="decode all images, too, and find damaged ones"
    )
    parser.add_argument(
        "--html", type=named, default=None, metavar="FILE", help="write a page: the counts, and the rows"
    )
    return parser


def row_numbers(text: str) -> int | tuple[int, ...]:
    """Parse "5" as the first five rows, and "3,7-9" as rows 3, 7, 8 and 9.

    Raises:
        argparse.ArgumentTypeError: The text has neither form, or names too many rows.
    """
    if text.strip().isdecimal() and text.strip().isascii():
        return int(positive(int)(text))
    numbers: list[int] = []
    for part in text.strip().removesuffix(",").split(","):
        matched = _RANGE.fullmatch(part)
        if matched is None:
            msg = f"found {text!r}, expected how many rows (5), or which (3,7-9)"
            raise argparse.ArgumentTypeError(msg)
        first, last = int(matched[1]), int(matched[2] or matched[1])
        if last < first:
            msg = f"found {part.strip()!r}, which ends before it begins"
            raise argparse.ArgumentTypeError(msg)
        if last - first + len(numbers) >= MOST_ROWS:
            msg = f"found more than {MOST_ROWS} rows, which are too many to look at"
            raise argparse.ArgumentTypeError(msg)
        numbers += range(first, last + 1)
    return tuple(dict.fromkeys(numbers))


def prepare(parsed: argparse.Namespace) -> Callable[[Screen], int]:
    """Give what carries out the command.

    Raises:
        RecipeError: Options contradict each other.
    """
    _check(parsed)
    if parsed.html is not None:
        return functools.partial(write_page, parsed.recipe, parsed)
    if parsed.all:
        return functools.partial(show_census, parsed.recipe, decodes=parsed.decode)
    return functools.partial(show_rows, parsed.recipe, parsed)


def _check(parsed: argparse.Namespace) -> None:
    given = [name for name in ("--longest", "--worst") if getattr(parsed, name[2:]) is not None]
    if isinstance(parsed.rows, tuple):
        given.insert(0, "--rows with numbers")
    if parsed.all and parsed.html is None and (given or parsed.rows is not None):
        given.insert(0, "--all")
    if len(given) > 1 or given == ["--all"]:
        msg = f"{' and '.join(given)} choose different rows; give one" if len(given) > 1 else ALL_AND_ROWS
        raise RecipeError(msg)
    if parsed.decode and not (parsed.all or parsed.html is not None):
        msg = "--decode: the images of shown rows are decoded without it; give --all or --html, which count all rows"
        raise RecipeError(msg)
    if parsed.by is not None and parsed.worst is None:
        msg = "--by: says which answers are the worst; give --worst with it"
        raise RecipeError(msg)


def _choose(parsed: argparse.Namespace, default: int) -> "Choice":
    from ..report.rows.choice import Choice

    is_number = isinstance(parsed.rows, int)
    return Choice(
        n=parsed.rows if is_number else default,
        numbers=() if is_number or parsed.rows is None else parsed.rows,
        n_longest=parsed.longest,
        worst=None if parsed.worst is None else expand(parsed.worst),
        metric=parsed.by,
    )


def show_rows(recipe: Recipe, parsed: argparse.Namespace, console: Screen) -> int:
    """Show rows as the model will see them.

    Returns:
        0, or 2 if a row cannot be learned from.
    """
    with importing(recipe):
        from ..build import load_rows
        from ..report.inspect import inspect_rows
        from ..report.rows.choice import choose_rows
    choice, data = _choose(parsed, FEW), load_rows(recipe)
    sets = [data.train, *([] if data.valid is None else [data.valid])]
    template = data.encoder.template_use()
    counted = _count_all(recipe, data, console)[:1] if choice.n_longest is not None else []
    longest = [number for census in counted for number in census.numbers.longest(choice.n_longest or 0)]
    chosen = choose_rows(choice, sets, longest)
    n_bad, columns = 0, Columns()
    for place, row in zip(chosen, inspect_rows(data, chosen), strict=True):
        n_bad += row.problem is not None
        answered = {} if place.prediction is None else {"prediction": place.prediction, "scores": place.scores}
        console.tell(row, **answered)
        _show_row(row, console)
        _show_answer(place, console)
        columns = row.columns
    console.tell(template)
    _say(console, f"chat template: {describe_template(template)}")
    _say(console, f"columns: {describe_columns(columns)}")
    verdict = "all of them can be learned from" if not n_bad else f"{n_bad} cannot be learned from"
    if len(chosen) == 1:
        verdict = "it can be learned from" if not n_bad else "it cannot be learned from"
    with console.result():
        console.print(f"{with_noun(len(chosen), 'row')}: {verdict}", style="bold red" if n_bad else "bold")
    return USER_ERROR if n_bad else DONE


def write_page(recipe: Recipe, parsed: argparse.Namespace, console: Screen) -> int:
    """Count all rows, and write a page with the counts and the chosen rows.

    Returns:
        0, or 2 if a row cannot be learned from.
    """
    with importing(recipe):
        from ..build import load_rows
        from ..output.named_files import open_named, write_named
        from ..report.page import is_page
        from ..report.rows.choice import choose_rows
        from ..report.rows.rows_page import find_findings, find_overlap, make_page
    path = open_named(parsed.html, "--html", is_page)
    choice, data = _choose(parsed, MANY), load_rows(recipe)
    sets = [data.train, *([] if data.valid is None else [data.valid])]
    if choice.n_longest is None:
        # Before all rows are counted, so that a missing file is reported at once.
        choose_rows(choice, sets)
    censuses = _count_all(recipe, data, console, compares_images=True, decodes=parsed.decode)
    chosen = choose_rows(choice, sets, censuses[0].numbers.longest(choice.n_longest or 0))
    facts = [
        f"Chat template: {describe_template(censuses[0].template)}.",
        *(f"Columns of {census.name}: {describe_columns(census.columns)}." for census in censuses),
    ]
    page = make_page(recipe, data, censuses, chosen, title=_describe_choice(choice, len(chosen)), facts=facts)
    write_named(path, page)
    for census in censuses:
        console.tell(census)
        if parsed.all:
            _show_counts(census, console)
    for finding in find_findings(recipe, censuses, find_overlap(censuses)):
        console.tell(finding)
        _say(console, finding.text)
    n_rows = sum(census.n_rows for census in censuses)
    console.tell("Page", path=path, n_rows=n_rows, n_shown=len(chosen))
    with console.result():
        _say(console, f"{with_noun(len(chosen), 'row')} of {n_rows:,} shown in {path}")
    return USER_ERROR if any(census.n_refused for census in censuses) else DONE


def _describe_choice(choice: "Choice", n: int) -> str:
    if choice.worst is not None:
        by = f" by {choice.metric}" if choice.metric else ""
        return f"The {with_noun(n, 'row')} answered worst{by} in {choice.worst}, the worst first."
    if choice.n_longest is not None:
        return f"The longest {with_noun(n, 'row')} to train on, the longest first."
    return f"{with_noun(n, 'row')}, chosen by their numbers." if choice.numbers else f"The first {with_noun(n, 'row')}."


def show_census(recipe: Recipe, console: Screen, *, decodes: bool = False) -> int:
    """Count all rows, and print the counts of each data set.

    Returns:
        0, or 2 if a row cannot be learned from.
    """
    with importing(recipe):
        from ..build import load_rows
    shown = _count_all(recipe, load_rows(recipe), console, decodes=decodes)
    for census in shown:
        console.tell(census)
        _show_counts(census, console)
    n_refused = sum(census.n_refused for census in shown)
    n_rows = sum(census.n_rows for census in shown)
    verdict = "no row is refused" if not n_refused else f"{n_refused:,} cannot be learned from"
    with console.result():
        console.print(f"{with_noun(n_rows, 'row')}: {verdict}", style="bold red" if n_refused else "bold")
    return USER_ERROR if n_refused else DONE


def _count_all(
    recipe: Recipe, data: "Data", console: Screen, *, compares_images: bool = False, decodes: bool = False
) -> "list[Census]":
    """Count the rows of all data sets, and show how far that is."""
    from ..report.census import count_rows
    from .progress.rows import open_progress

    shown: list[Census] = []
    with open_progress(console) as progress:
        for census in count_rows(recipe, data, compares_images=compares_images, decodes=decodes):
            if not census.n_seen:
                shown.append(census)
                progress.begin(Working(what=f"counting {census.name}", total=census.n_rows))
            else:
                progress.reach(census.n_seen)
    return shown


def _show_answer(row: "Chosen", console: Screen) -> None:
    """Print the model's answer to a row, if there is one."""
    if row.prediction is None:
        return
    scores = ", ".join(f"{name} {score:.3g}" for name, score in row.scores.items())
    console.print(Text(f"  expected: {row.prediction.expected}"), soft_wrap=True)
    console.print(Text(f"  answered: {row.prediction.answer}", style="bold"), soft_wrap=True)
    _say(console, f"  {scores} at step {row.prediction.step}")


def _show_row(row: "Inspected", console: Screen) -> None:
    console.print(Text(row.source, style="bold"))
    if row.problem is not None:
        problem = row.problem.removeprefix(f"{row.source}: ")
        console.print(Text(f"  {problem}", style="red"), soft_wrap=True)
        return
    sizes = ", ".join(f"{width}x{height}" for width, height in row.image_sizes) or "none"
    if row.cut is not None:
        lost = f"; {row.cut.n_lost:,} supervised ones are lost" if row.cut.n_lost else ""
        found = f"  cut from {row.cut.n_tokens:,} to {with_noun(row.cut.n_kept, 'token')} by data.max_seq_length{lost}"
        console.print(found, style="yellow")
    texts, pictured = with_noun(row.n_text, "text token"), with_noun(row.n_image, "image token")
    console.print(f"  {texts}, {pictured}, {row.n_supervised} supervised; images: {sizes}")
    if row.is_wanted is not None:
        console.print(f"  the answer is {'wanted' if row.is_wanted else 'not wanted'}")
    console.print(_write_pieces(row.pieces, console), soft_wrap=True)
    if row.rejected:
        console.print("  the worse answer:")
        console.print(_write_pieces(row.rejected, console), soft_wrap=True)


def _write_pieces(pieces: "Sequence[Piece]", console: Screen) -> Text:
    line = Text()
    for piece in pieces:
        mark = "{}" if console.is_terminal and piece.kind != "image" else MARKS[piece.kind]
        line.append(mark.format(piece.text), style=STYLES[piece.kind])
    return line


def _show_counts(census: "Census", console: Screen) -> None:
    console.print(Text(census.name, style="bold"))
    for line in (
        f"chat template: {describe_template(census.template)}",
        f"columns: {describe_columns(census.columns)}",
        f"{'every picture' if census.decodes else 'no picture'} was decoded; {census.method}",
        f"rows: {census.n_rows:,}",
        f"tokens: {census.n_tokens:,}, {census.n_image_tokens:,} of them for images; "
        f"the longest row has {census.longest:,}" + (f" ({census.longest_source})" if census.longest else ""),
        f"supervised tokens: {census.n_supervised:,}",
        f"images: {census.n_images:,}",
        f"cut rows: {census.cuts.n_rows:,}" + (f"; {census.cuts.describe_losses()}" if census.cuts.n_rows else ""),
        f"duplicates: {census.n_duplicates:,}" + (f"; first: {census.first_duplicate}" * bool(census.n_duplicates)),
    ):
        _say(console, f"  {line}")
    for name, (n_rows, n_tokens) in census.by_source.items():
        shares = (
            f"{n_rows / max(1, census.n_rows):.1%} of the rows, {n_tokens / max(1, census.n_tokens):.1%} of the tokens"
        )
        _say(console, f"  {name}: {with_noun(n_rows, 'row')}, {with_noun(n_tokens, 'token')} ({shares})")
    if census.left_out:
        _say(console, f'  left out: {census.left_out:,}, by data.on_long_row = "skip"')
    _say(console, f"  refused rows: {census.n_refused:,}")
    reasons = sorted(census.refused.values(), key=lambda refusal: -refusal.n_rows)
    for refusal in reasons[:SHOWN_REASONS]:
        _say(console, f"    {refusal.n_rows:,} such as {refusal.first}")
    if len(reasons) > SHOWN_REASONS:
        _say(console, f"    and for {with_noun(len(reasons) - SHOWN_REASONS, 'reason')} more")


def _say(console: Screen, line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)
