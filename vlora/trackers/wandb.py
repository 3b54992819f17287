"""Weights & Biases."""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import attrs

from ..errors import RecipeError
from .tracker import ANSWER_COLUMNS, Answers, Ending, Tracked, TrackedRun, import_package

PROJECT = "vlora"


@attrs.define
class Wandb:
    """Logs to W&B's servers, or with WANDB_MODE=offline into `wandb` within the run's folder for `wandb sync`."""

    package: Any
    run: Any = None

    @classmethod
    def open(cls) -> Self:
        """Import wandb, and see that it would not ask for a key in the middle of a run.

        Raises:
            RecipeError: It is not there, or has no key.
        """
        package = import_package("wandb", "wandb", "wandb")
        is_online = package.setup().settings.mode in (None, "online", "shared")
        if is_online and not package.login(prompt=False, verify=False):
            msg = (
                "output.trackers: 'wandb' has no API key; run `wandb login` once, or set WANDB_MODE=offline in the "
                "environment to send nothing"
            )
            raise RecipeError(msg)
        return cls(package)

    def start(self, run: TrackedRun) -> Tracked:
        """Begin a run of W&B's, or go on with one."""
        key = run.key or uuid.uuid4().hex[:12]
        self.run = self.package.init(
            project=run.project or os.environ.get("WANDB_PROJECT") or PROJECT,
            name=run.name,
            id=key,
            resume="allow",
            dir=os.environ.get("WANDB_DIR") or str(run.folder),
            config=dict(run.values),
            allow_val_change=True,
            # The screen is the command's.
            settings=self.package.Settings(silent=True, console="off"),
        )
        # W&B's own counter only rises; a run that goes on does some steps anew.
        self.run.define_metric("step", hidden=True)
        self.run.define_metric("*", step_metric="step")
        folder = Path(self.run.dir).parent
        return Tracked(key, f"{folder}; `wandb sync` sends it" if self.run.offline else str(self.run.url or folder))

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Log numbers over their step."""
        self.run.log({**numbers, "step": step})

    def show_answers(self, answers: Answers, step: int) -> None:
        """Log a table."""
        table = self.package.Table(columns=list(ANSWER_COLUMNS), data=[list(row) for row in answers.rows])
        self.run.log({"answers": table, "step": step})

    def end(self, ending: Ending) -> None:
        """Wait until all is sent."""
        if self.run is not None:
            self.run.finish(exit_code=int(ending == "failed"))
