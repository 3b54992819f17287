"""Writes the report of a run while it trains, rarely enough not to slow down the training."""

import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import attrs

from ...events import Event, Finished, Reported, Skipped, Started, StepReport, Warned
from ...output.atomic import write_text, write_whole
from ...output.paths import PLOT_NAME, PREDICTIONS_NAME, REPORT_NAME, output_paths
from ...recipe.parse import dump_recipe, flatten_recipe
from ...recipe.schema import Recipe
from ...system.redaction import redact
from ..charts.layout import lay_out
from ..charts.png import draw_png
from .answers import AnsweredRow, RowPictures, read_answers
from .commands import ask_command
from .figures import loss_chart
from .run_files import RunLog, RunRecord, describe_device, read_log
from .run_page import RunFacts, make_page
from .versions import find_versions

LEAST_SECONDS = 5.0
"""Shortest time between two versions of a report in seconds."""

SHARE = 0.005
"""Largest share of the run's time for its report, without the first and the last version."""

WIDTH, HEIGHT, SIZE = 800, 460, 13
"""Of loss.png, before it is enlarged."""

MOST_NOTES = 50
"""Most different warnings and skipped rows that a report names."""


@attrs.define(eq=False)
class LiveReport:
    """Updates the report of a run from its events; as a context manager it writes the last version at its end.

    Attributes:
        recipe: The recipe.
        go_on: The command that resumes it.
        clock: Seconds of any origin.
        log: The reports so far.
    """

    recipe: Recipe
    go_on: str = ""
    clock: Callable[[], float] = time.monotonic
    log: RunLog = attrs.field(factory=RunLog, init=False)
    _started: Started | None = attrs.field(default=None, init=False)
    _finished: Finished | None = attrs.field(default=None, init=False)
    _n_steps: int = attrs.field(default=0, init=False)
    # How often each was told: a row that is skipped is so in every epoch, and in every validation.
    _notes: Counter[str] = attrs.field(factory=Counter, init=False)
    _n_unnamed: int = attrs.field(default=0, init=False)
    _answers: "_LiveAnswers | None" = attrs.field(default=None, init=False)
    _next: float = attrs.field(default=0.0, init=False)

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return output_paths(self.recipe).folder

    def __call__(self, event: Event) -> None:
        """Process an event, and write the report if there is news and enough time has passed."""
        if isinstance(event, StepReport):
            self._n_steps = event.n_steps or self._n_steps
        elif isinstance(event, Started):
            self._start(event)
        elif isinstance(event, Reported):
            self.log.add(event.metrics)
            if self.clock() >= self._next:
                self.write("training")
        elif isinstance(event, (Warned, Skipped)):
            self._note(event.message if isinstance(event, Warned) else event.reason)
        elif isinstance(event, Finished):
            self._finished, self._n_steps = event, event.n_steps

    def _note(self, text: str) -> None:
        if text in self._notes or len(self._notes) < MOST_NOTES:
            self._notes[text] += 1
        else:
            self._n_unnamed += 1

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the last version."""
        if self._started is None:
            return
        if self._finished is None:
            self.write("failed")
        else:
            self.write("over" if self._finished.is_complete else "stopped")

    def _start(self, event: Started) -> None:
        self._started, self._n_steps = event, event.n_steps
        if event.first_step:
            # Lines behind the state that the run is resumed from have been removed by now.
            self.log = read_log(self.folder)
        self.log.begin(event.first_step, describe_device(event.device.kind, event.device.name))
        self._answers = _LiveAnswers(self.folder / PREDICTIONS_NAME, RowPictures(event.held_out, self.recipe.data))
        self.write("training")
        # The first version includes imports, so its duration does not predict that of others.
        self._next = self.clock() + LEAST_SECONDS

    def write(self, status: str) -> None:
        """Write the report of the run's current progress.

        Args:
            status: As in `RunFacts`.
        """
        if self._started is None or self._answers is None:
            return
        start = self.clock()
        run = self.log.freeze(self.folder, flatten_recipe(dump_recipe(self.recipe), with_defaults=True))
        now = datetime.now().astimezone()
        page = make_page(run, self._describe(status, self._started), self._answers.read(), now)
        write_text(self.folder / REPORT_NAME, page)
        write_plot(run, self.folder / PLOT_NAME)
        end = self.clock()
        self._next = end + max(LEAST_SECONDS, (end - start) / SHARE)

    def _describe(self, status: str, started: Started) -> RunFacts:
        finished = self._finished
        notes = [f"{text} ({count:,} times)" if count > 1 else text for text, count in self._notes.items()]
        trained = f"{started.n_trainable:,} of {started.n_params:,}"
        held_out = f", {started.n_valid_rows:,} held out" if started.n_valid_rows else ""
        early = (("stopped early", f"after step {finished.step:,}"),) if finished and finished.stopped_early else ()
        ask, ask_best = _write_commands(finished)
        return RunFacts(
            status=status,
            n_steps=self._n_steps,
            facts=(
                ("model", redact(f"{self.recipe.model.path} ({started.model_type})")),
                ("parameters trained", trained),
                ("rows", f"{'streamed' if started.n_rows is None else f'{started.n_rows:,}'}{held_out}"),
                *early,
            ),
            versions=find_versions(),
            notes=(*notes, *([f"and {self._n_unnamed:,} more"] if self._n_unnamed else [])),
            # It includes values given with --set.
            go_on=redact(self.go_on) if status != "over" else "",
            ask=ask,
            ask_best=ask_best,
            unasked=(finished.unasked or "") if finished is not None else "",
        )


def _write_commands(finished: Finished | None) -> tuple[str, str]:
    """Return the commands that ask the last model and, if it is another one, the best model."""
    if finished is None or finished.unasked is not None:
        return "", ""
    best = finished.best
    if best is None or best.path is None or best.step == finished.step:
        return ask_command(finished), ""
    return ask_command(finished), ask_command(finished, best.path)


@attrs.define(eq=False)
class _LiveAnswers:
    """The answers of a running process, read again when there are new ones."""

    file: Path
    pictures: RowPictures
    _version: tuple[int, int] | None = None
    _rows: list[AnsweredRow] = attrs.field(factory=list)

    def read(self) -> list[AnsweredRow]:
        """Return the answers to the first rows so far."""
        if self.file.is_file():
            found = self.file.stat()
            if (version := (found.st_size, found.st_mtime_ns)) != self._version:
                self._version = version
                self._rows = [self.pictures.add(row) for row in read_answers(self.file)]
        return self._rows


def write_plot(run: RunRecord, file: Path) -> None:
    """Draw the losses of a run into a file; no file without a loss."""
    chart = loss_chart(run)
    if chart.has_points:
        write_whole(file, draw_png(lay_out(chart, WIDTH, HEIGHT, SIZE)).save)
