"""What `python -m vlora doctor MODEL` is asked for, and how it shows what it found."""

import itertools
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..errors import RecipeError
from ..recipe.parse import parse_override, parse_recipe
from ..recipe.schema import Recipe
from ..system.nouns import with_noun
from .screen import Screen
from .status import DONE, FAILED_CHECK

if TYPE_CHECKING:
    from ..doctor.checks import Outcome

READ_SECTIONS = ("model", "lora", "memory")
READ_KEYS = tuple(
    f"data.{name}"
    for name in ("chat_template", "assistant_id", "learn_end", "max_pixels", "image_resize_shape", "system")
)
UNREAD_KEYS = ("model.path", "lora.dropout")
"""Keys of a recipe that decide how a model is opened and its rows are written, and those that do not count here."""

MOST_COLUMNS, NAME, RESULT, TIME = 110, 13, 9, 8
"""Columns of the screen that are used at most, and those of the table but for its last."""

LEAST_ROOM = 20
"""Columns that what was found has in any case."""

UNITS_OF_TIME = 10.0
"""Seconds from which on tenths are not told."""


def make_recipe(model: str, revision: str | None, assignments: Sequence[str], folder: Path) -> Recipe:
    """Make the recipe by which a model is opened.

    Args:
        model: A folder, or a hub id.
        revision: Which version of the hub's; None for that of its main branch.
        assignments: Keys that decide how it is trained, as "section.key=value".
        folder: Where a run would write.

    Raises:
        RecipeError: The model is a recipe, or a key is wrong or means nothing here.
    """
    if model.endswith(".toml") and Path(model).is_file():
        msg = f"found {model!r}, which is a recipe; give the folder or the hub id of its model (model.path)"
        raise RecipeError(msg)
    overrides: dict[str, Any] = {
        "model.path": model,
        "data.path": "rows of the doctor",
        "output.path": str(folder / "run" / "adapters.safetensors"),
    }
    if revision is not None:
        overrides["model.revision"] = revision
    for assignment in assignments:
        key, found, value = (part.strip() for part in assignment.partition("="))
        if not found:
            msg = f"--set: found {assignment!r}, expected section.key=value"
            raise RecipeError(msg)
        if key in UNREAD_KEYS or not (key.partition(".")[0] in READ_SECTIONS or key in READ_KEYS):
            msg = (
                f"--set: found {key}, which does not count when a model is checked; give keys of {_join(READ_SECTIONS)}"
                f", or {', '.join(READ_KEYS)}"
            )
            raise RecipeError(msg)
        overrides[key] = parse_override(key, value)
    return parse_recipe("", overrides)


def show_model_checks(
    model: str, revision: str | None, assignments: Sequence[str], file: Path | None, console: Screen
) -> int:
    """Check whether a model can be trained, show how far that is, and then a table of what was found.

    Args:
        model: As for `make_recipe`, as are the next two.
        revision: See above.
        assignments: See above.
        file: Where the outcome is written, as JSON; None for nowhere.
        console: Where it is shown.

    Returns:
        0 if the model can be trained, else 1.
    """
    from ..doctor.checks import is_report, report
    from ..doctor.machine import describe_machine
    from ..output.named_files import open_named, write_named

    began = time.monotonic()
    target = None if file is None else open_named(file, "--write", is_report)
    with tempfile.TemporaryDirectory(prefix="vlora-doctor-", ignore_cleanup_errors=True) as name:
        recipe = make_recipe(model, revision, assignments, Path(name))
        outcomes = _run(recipe, Path(name), console)
    failed = [outcome.name for outcome in outcomes if not outcome.is_ok]
    seconds = time.monotonic() - began
    if target is not None:
        write_named(target, report({"model": model, **describe_machine()}, outcomes, len(outcomes)))
    console.print()
    for outcome in (None, *_gather(outcomes)):
        is_failed = outcome is not None and not outcome.is_ok
        # Who wants nothing but the result wants to know what failed, too.
        with console.result() if is_failed else nullcontext():
            _show(outcome, console, "bold red" if is_failed else "")
    console.tell("Verdict", is_trainable=not failed, n_failed=len(failed), failed=failed, seconds=seconds)
    verdict = (
        f"{len(failed)} of {with_noun(len(outcomes), 'check')} failed: {', '.join(failed)}"
        if failed
        else "can be trained"
    )
    with console.result():
        style = "bold red" if failed else "bold"
        console.print(Text(f"{model}: {verdict} ({seconds:.0f} s)", style=style), soft_wrap=True)
    return FAILED_CHECK if failed else DONE


def _gather(outcomes: "Sequence[Outcome]") -> "Iterator[Outcome]":
    """Yield outcomes; of those that were not asked for one reason all in one."""
    for found, same in itertools.groupby(outcomes, lambda outcome: (outcome.is_left_out, outcome.found)):
        first, *others = same
        yield attrs.evolve(first, name=f"{len(others) + 1} others") if others and found[0] else first


def _run(recipe: Recipe, folder: Path, console: Screen) -> "list[Outcome]":
    """Run the checks, with a bar on a terminal and a line for each elsewhere."""
    from ..doctor.checks import Outcome
    from ..doctor.model.checks import NAMES, check_model

    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn())
    is_shown = console.is_terminal and console.mode == "all"
    bar = Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not is_shown)
    outcomes = []
    with bar:
        task = bar.add_task("begins", total=len(NAMES))
        for event in check_model(recipe, folder, {"model.path": "model"}):
            console.tell(event)
            if isinstance(event, Outcome):
                outcomes.append(event)
                bar.advance(task)
                if not is_shown and not event.is_left_out:
                    console.print(f"{len(outcomes)} of {len(NAMES)} {event.name}: {_result(event)}", markup=False)
            else:
                bar.update(task, description=f"checks {event.name}")
    return outcomes


def _show(outcome: "Outcome | None", console: Screen, style: str) -> None:
    for line in write_lines(outcome, min(console.width, MOST_COLUMNS) - 1):
        console.print(Text(line, style=style), soft_wrap=True)


def write_lines(outcome: "Outcome | None", width: int) -> Iterator[str]:
    """Yield the lines of a table's row.

    Args:
        outcome: What a check found; None for the table's head.
        width: Characters of a line at most, but for paths that are longer.
    """
    cells = ("check", "result", "time", "found")
    if outcome is not None:
        cells = (outcome.name, _result(outcome), _format_seconds(outcome.seconds), outcome.found)
    name, result, seconds, found = cells
    indent = NAME + RESULT + TIME + 2
    room = max(width - indent, LEAST_ROOM)
    words = itertools.chain.from_iterable(break_name(word, room) for word in found.split())
    parts = textwrap.wrap(" ".join(words), room, break_long_words=False, break_on_hyphens=False) or [""]
    yield f"{name:<{NAME}}{result:<{RESULT}}{seconds:>{TIME}}  {parts[0]}".rstrip()
    yield from (f"{'':<{indent}}{part}" for part in parts[1:])


def break_name(word: str, room: int) -> Iterator[str]:
    """Yield the parts of a word that is too long for a line, broken behind points: most such words are names."""
    while len(word) > room and (place := word.rfind(".", 1, room)) > 0:
        yield word[: place + 1]
        word = word[place + 1 :]
    yield word


def _result(outcome: "Outcome") -> str:
    return "left out" if outcome.is_left_out else "ok" if outcome.is_ok else "FAIL"


def _format_seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= UNITS_OF_TIME else f"{seconds:.1f} s"


def _join(sections: Sequence[str]) -> str:
    return ", ".join(f"[{section}]" for section in sections)


def refuse_without_model(given: Mapping[str, Any]) -> None:
    """Refuse options of a model's checks where no model is named.

    Raises:
        RecipeError: One was given.
    """
    for option, value in given.items():
        if value:
            msg = f"{option}: belongs to the checks of a model; name one, python -m vlora doctor MODEL"
            raise RecipeError(msg)
