"""A run's events become a tracker's calls."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import attrs

from ..events import Event, Finished, Generated, Reported, Started
from ..output.atomic import write_text
from ..output.paths import STATE_NAME, output_paths
from ..recipe.parse import dump_recipe, flatten_recipe
from ..recipe.schema import Recipe
from ..system.redaction import redact
from .tracker import Answers, Ending, TrackedRun, Tracker

KEYS_NAME = "trackers.json"
"""Beside the training state, with which it moves: what trackers know the run by."""

MOST_ANSWERS, LONGEST_TEXT = 20, 500
"""Answers of a round that a tracker gets, and characters of each text."""

LEFT_OUT = ("step", "unix_time", "first_step_unix_time", "device_memory_gb", "frozen_gb")
"""Of a line of metrics.jsonl: they are no measures."""


@attrs.define(eq=False)
class Tracking:
    """Takes the events of a run for one tracker. A context, which ends the tracker's run where no event has.

    Attributes:
        recipe: What is carried out.
        name: The tracker's, as the recipe has it.
        open: Imports what the tracker needs, and gives it.
        say: Is told where the run can be seen.
        first_step: Steps done by the run that a loop of your own goes on from; events say it themselves.
    """

    recipe: Recipe
    name: str
    open: Callable[[], Tracker]
    say: Callable[[str], None] = lambda _: None
    first_step: int = 0
    _tracker: Tracker | None = attrs.field(default=None, init=False)
    _has_started: bool = attrs.field(default=False, init=False)
    _has_ended: bool = attrs.field(default=False, init=False)
    _answers: list[tuple[str, str, str]] = attrs.field(factory=list, init=False)
    _round: tuple[str, int] = attrs.field(default=("", 0), init=False)
    _hides_answers: bool = attrs.field(default=False, init=False)

    def __call__(self, event: Event) -> None:
        """Take an event in."""
        if isinstance(event, Started):
            self.start(event.first_step, _facts(event))
        elif isinstance(event, Generated):
            self._collect(event)
        elif isinstance(event, Reported):
            step = int(event.metrics["step"])
            self.log(event.metrics, step)
            self._show_answers(step)
        elif isinstance(event, Finished):
            self._show_answers(event.step)
            self._end("finished" if event.is_complete else "stopped")

    def __enter__(self) -> Self:
        """Import what the tracker needs.

        Raises:
            RecipeError: It is not there.
        """
        self._tracker = self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what has begun and was not ended."""
        self._end("finished" if kind is None else "failed")

    def start(self, first_step: int, facts: Mapping[str, Any] | None = None) -> None:
        """Begin the tracker's run; one that goes on after `first_step` steps goes on with the one that it had."""
        if self._tracker is None:
            return
        folder = output_paths(self.recipe).folder
        keys = _read_keys(folder) if first_step else {}
        text = dump_recipe(self.recipe)
        values = {name: _plain(value) for name, value in flatten_recipe(text, with_defaults=True).items()}
        run = TrackedRun(
            name=folder.resolve().name,
            project=self.recipe.output.project,
            folder=folder,
            values={**values, **(facts or {})},
            recipe=redact(text),
            first_step=first_step,
            key=keys.get(self.name),
        )
        self._has_started = True
        tracked = self._tracker.start(run)
        # Others of the run write their own keys there.
        _write_keys(folder, {**_read_keys(folder), self.name: tracked.key})
        self.say(redact(f"{self.name}: {tracked.where}"))

    def log(self, numbers: Mapping[str, Any], step: int) -> None:
        """Take numbers of a step; texts, and what is not finite, are left out."""
        measures = {name: float(value) for name, value in numbers.items() if _is_measure(name, value)}
        if not self._has_started:
            self.start(self.first_step)
        if measures and self._tracker is not None:
            self._tracker.log(measures, step)

    def _collect(self, event: Generated) -> None:
        """Keep the first answers of a round; it is shown with the numbers that come next, which know its step."""
        if event.done == 1:
            self._answers = []
        if len(self._answers) < MOST_ANSWERS:
            self._answers.append((_shorten(event.row), _shorten(event.expected), _shorten(event.found)))
        self._round = (event.when, event.done)

    def _show_answers(self, step: int) -> None:
        """Show the answers that have been kept. What they fail with ends them, and no numbers."""
        if self._tracker is None or not self._answers or self._hides_answers:
            return
        when, n_answers = self._round
        answers = Answers(when=when, rows=tuple(self._answers), n_answers=n_answers)
        self._answers = []
        try:
            self._tracker.show_answers(answers, step)
        except Exception as error:  # noqa: BLE001 - whatever the tracker has against texts, its numbers go on
            self._hides_answers = True
            said = redact(" ".join(str(error).split()))
            self.say(f"{self.name}: answers are left out ({type(error).__name__}: {said})")

    def _end(self, ending: Ending) -> None:
        if self._tracker is not None and not self._has_ended:
            self._has_ended = True
            self._tracker.end(ending)


def _shorten(text: str) -> str:
    """Give a text without secrets, and not at any length."""
    text = redact(text)
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}..."


def _facts(event: Started) -> dict[str, Any]:
    return {
        "run.device": event.device.name,
        "run.device_kind": event.device.kind,
        "run.model_type": event.model_type,
        "run.n_rows": event.n_rows,
        "run.n_valid_rows": event.n_valid_rows,
        "run.n_steps": event.n_steps,
        "run.n_params": event.n_params,
        "run.n_trainable": event.n_trainable,
    }


def _plain(value: Any) -> Any:
    """Give a value of a recipe as all trackers take it, without secrets."""
    return value if isinstance(value, (bool, int, float)) else redact(str(value))


def _is_measure(name: str, value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and name not in LEFT_OUT and math.isfinite(value)


def _keys_file(folder: Path) -> Path:
    return (folder / STATE_NAME).with_name(KEYS_NAME)


def _read_keys(folder: Path) -> dict[str, str]:
    try:
        found = json.loads(_keys_file(folder).read_text(encoding="utf-8"))
        return {str(name): str(key) for name, key in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _write_keys(folder: Path, keys: Mapping[str, str]) -> None:
    write_text(_keys_file(folder), json.dumps(keys, indent=2) + "\n")
