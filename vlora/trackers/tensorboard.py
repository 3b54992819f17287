"""TensorBoard, by tensorboardX: event files in the run's folder."""

from collections.abc import Mapping
from typing import Any, Self

import attrs

from ..output.paths import TENSORBOARD_NAME
from .tracker import Answers, Ending, Tracked, TrackedRun, import_package

FLUSH_SECONDS = 10


@attrs.define
class TensorBoard:
    """Writes event files into `tensorboard` within the run's folder: `tensorboard --logdir runs` shows all runs."""

    package: Any
    writer: Any = None

    @classmethod
    def open(cls) -> Self:
        """Import tensorboardX.

        Raises:
            RecipeError: It is not there.
        """
        return cls(import_package("tensorboardX", "tensorboardX", "tensorboard"))

    def start(self, run: TrackedRun) -> Tracked:
        """Begin a file of events; one that goes on makes TensorBoard forget the steps that are done anew."""
        folder = str(run.folder / TENSORBOARD_NAME)
        purge = None if run.key is None else run.first_step + 1
        # Files are named after the second: one that begins within the same one would overwrite the first.
        number = len(list((run.folder / TENSORBOARD_NAME).glob("events.*")))
        self.writer = self.package.SummaryWriter(
            folder, purge_step=purge, flush_secs=FLUSH_SECONDS, filename_suffix=f".{number:04}"
        )
        if run.key is None:
            # An indented text is code.
            self.writer.add_text("recipe", "".join(f"    {line}\n" for line in run.recipe.splitlines()))
        return Tracked(TENSORBOARD_NAME, folder)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Write scalars."""
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def show_answers(self, answers: Answers, step: int) -> None:
        """Write a table as text."""
        self.writer.add_text("answers", answers.write_table(), step)

    def end(self, ending: Ending) -> None:
        """Write what is waiting."""
        del ending
        if self.writer is not None:
            self.writer.close()
