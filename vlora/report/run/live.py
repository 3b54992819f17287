"""The report of a run that goes on: written again while it trains, seldom enough that training is not slower for it."""

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import attrs

from ...events import Event, Finished, Reported, Started
from ...output.atomic import write_whole
from ...output.paths import PLOT_NAME, output_paths
from ...recipe.parse import dump_recipe, flatten_recipe
from ...recipe.schema import Recipe
from ..charts.layout import lay_out
from ..charts.png import draw_png
from .figures import loss_chart
from .run_files import RunLog, RunRecord, describe_device, read_log

LEAST_SECONDS = 5.0
"""Between two versions of a report."""

SHARE = 0.004
"""Of the run's time that its report takes at most, but for the last version."""

WIDTH, HEIGHT, SIZE = 800, 460, 13
"""Of loss.png, before it is enlarged."""


@attrs.define(eq=False)
class LiveReport:
    """Takes the events of a run and keeps its report up to date. A context: the last version is written at its end.

    Attributes:
        recipe: What is carried out.
        clock: Seconds of any origin.
        log: What was reported so far.
    """

    recipe: Recipe
    clock: Callable[[], float] = time.monotonic
    log: RunLog = attrs.field(factory=RunLog, init=False)
    _folder: Path | None = attrs.field(default=None, init=False)
    _is_behind: bool = attrs.field(default=False, init=False)
    _next: float = attrs.field(default=0.0, init=False)

    def __call__(self, event: Event) -> None:
        """Take an event in, and write the report if there is something new and it is time."""
        if isinstance(event, Started):
            self._start(event)
        elif isinstance(event, Reported):
            self.log.add(event.metrics)
            self._is_behind = True
            if self.clock() >= self._next:
                self.write()
        elif isinstance(event, Finished):
            self.write()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what was reported since the last version."""
        if self._is_behind:
            self.write()

    def _start(self, event: Started) -> None:
        self._folder = output_paths(self.recipe).folder
        if event.first_step:
            # What stands behind the state that the run goes on from has been removed by now.
            self.log = read_log(self._folder)
        self.log.begin(event.first_step, describe_device(event.device.kind, event.device.name))

    def write(self) -> None:
        """Write the report as far as the run is."""
        if self._folder is None:
            return
        start = self.clock()
        run = self.log.freeze(self._folder, flatten_recipe(dump_recipe(self.recipe), with_defaults=True))
        write_plot(run, self._folder / PLOT_NAME)
        end = self.clock()
        self._is_behind = False
        self._next = end + max(LEAST_SECONDS, (end - start) / SHARE)


def write_plot(run: RunRecord, file: Path) -> None:
    """Draw the losses of a run into a file; none without a loss."""
    chart = loss_chart(run)
    if chart.has_points:
        write_whole(file, draw_png(lay_out(chart, WIDTH, HEIGHT, SIZE)).save)
