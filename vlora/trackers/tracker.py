"""What a tracker is, and what it is told."""

import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import attrs

from ..errors import RecipeError

Ending = Literal["finished", "stopped", "failed"]
"""No step is left to be taken; the run was stopped in order, and may go on; anything else."""


ANSWER_COLUMNS = ("row", "expected", "answer")
"""Of a table of answers."""


@attrs.frozen(kw_only=True)
class TrackedRun:
    """A run, as trackers are told of it.

    Attributes:
        name: That of its folder.
        project: Under which runs are gathered; None if the recipe names none.
        folder: Where it writes.
        values: The recipe's keys, dotted, and what else there is to know, to numbers, texts and truth values.
        recipe: The recipe's text.
        first_step: Steps done by the run that this one goes on from.
        key: What `start` gave when that one began; None for a run that begins.
    """

    name: str
    project: str | None
    folder: Path
    values: Mapping[str, Any]
    recipe: str
    first_step: int = 0
    key: str | None = None


@attrs.frozen
class Tracked:
    """What became of a run with a tracker.

    Attributes:
        key: What the tracker knows the run by; one that goes on is given it again.
        where: A folder or an address, for people.
    """

    key: str
    where: str


@attrs.frozen(kw_only=True)
class Answers:
    """Some answers of a round.

    Attributes:
        when: "before", "during" or "after" training.
        rows: (row, expected, answer) of each.
        n_answers: How many answers the round had.
    """

    when: str
    rows: Sequence[tuple[str, str, str]]
    n_answers: int

    def write_table(self) -> str:
        """Write them as a table of Markdown, whatever stands in them."""
        lines = [f"| {' | '.join(ANSWER_COLUMNS)} |", "|---" * len(ANSWER_COLUMNS) + "|"]
        lines += [f"| {' | '.join(map(_write_cell, row))} |" for row in self.rows]
        rest = self.n_answers - len(self.rows)
        return "\n".join(lines) + (f"\n\nand {rest:,} more" if rest else "") + "\n"


def _write_cell(text: str) -> str:
    """Write a text as code, in which Markdown and HTML mean nothing; lines and bars would end the cell."""
    plain = " ".join(text.split()).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", plain)), default=0))
    return f"{fence} {plain} {fence}" if plain else ""


class Tracker(Protocol):
    """Takes the numbers of a run. Whatever it raises switches it off."""

    def start(self, run: TrackedRun) -> Tracked:
        """Begin a run, or go on with one."""
        ...

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Take numbers of a step."""
        ...

    def show_answers(self, answers: "Answers", step: int) -> None:
        """Take some answers of a round behind a step, for people; what this raises ends answers, not the tracker."""
        ...

    def end(self, ending: Ending) -> None:
        """End the run; called once, and also where `start` has failed."""
        ...


def import_package(module: str, package: str, tracker: str) -> Any:
    """Import what a tracker needs, before anything is trained.

    Raises:
        RecipeError: It is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        msg = (
            f"output.trackers: {tracker!r} needs {package}, which cannot be imported ({error}); "
            f"`python -m pip install {package}` brings it"
        )
        raise RecipeError(msg) from None
