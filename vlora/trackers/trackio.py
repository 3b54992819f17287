"""trackio: a local database that `trackio show` shows."""

import contextlib
import io
import uuid
from collections.abc import Mapping
from typing import Any, Self

import attrs

from .tracker import ANSWER_COLUMNS, Answers, Ending, Tracked, TrackedRun, import_package

PROJECT = "vlora"


@attrs.define
class Trackio:
    """Logs into trackio's own folder (TRACKIO_DIR), or to what TRACKIO_SPACE_ID or TRACKIO_SERVER_URL name."""

    package: Any
    run: Any = None

    @classmethod
    def open(cls) -> Self:
        """Import trackio.

        Raises:
            RecipeError: It is not there.
        """
        return cls(import_package("trackio", "trackio", "trackio"))

    def start(self, run: TrackedRun) -> Tracked:
        """Begin a run, or go on with one. trackio knows runs by their names, which therefore differ."""
        name = run.key or f"{run.name}-{uuid.uuid4().hex[:6]}"
        project = run.project or PROJECT
        with _quietly():
            self.run = self.package.init(
                project=project,
                name=name,
                config=dict(run.values),
                resume="never" if run.key is None else "allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        return Tracked(name, f"{name} in project {project}; see it with `trackio show --project {project}`")

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Log numbers of a step."""
        self.run.log(dict(numbers), step=step)

    def show_answers(self, answers: Answers, step: int) -> None:
        """Log a table."""
        table = self.package.Table(columns=list(ANSWER_COLUMNS), data=[list(row) for row in answers.rows])
        self.run.log({"answers": table}, step=step)

    def end(self, ending: Ending) -> None:
        """Wait until all is written."""
        del ending
        if self.run is not None:
            with _quietly():
                self.package.finish()


def _quietly() -> contextlib.redirect_stdout[io.StringIO]:
    """Keep what trackio prints off the screen."""
    return contextlib.redirect_stdout(io.StringIO())
