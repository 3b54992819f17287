"""MLflow, by its client: the run of your own that may be active beside it is left alone."""

import itertools
import os
import re
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import attrs

from ..errors import RecipeError
from ..system.redaction import redact
from .tracker import Answers, Ending, Tracked, TrackedRun, import_package

EXPERIMENT = "vlora"
STATES = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
MOST_PARAMS, LONGEST_PARAM = 100, 6000
"""Of one call, and of one value in characters."""

_REFUSED = re.compile(r"[^\w.\- ]|\.(?=\.)")
"""Characters that a name may not have."""


@attrs.define
class Mlflow:
    """Logs to where MLFLOW_TRACKING_URI says, else to MLflow's own place. It sends in a thread of its own."""

    client: Any
    entities: Any
    key: str = ""
    # One thread keeps the order.
    sender: ThreadPoolExecutor = attrs.field(factory=lambda: ThreadPoolExecutor(1, "mlflow"))
    waiting: deque[Future[None]] = attrs.field(factory=deque)

    @classmethod
    def open(cls) -> Self:
        """Import mlflow, and see that it can write where it is to.

        Raises:
            RecipeError: It is not there, or has no place to write to.
        """
        package = import_package("mlflow", "mlflow", "mlflow")
        entities = import_package("mlflow.entities", "mlflow", "mlflow")
        try:
            client = package.MlflowClient()
        except Exception as error:
            # A part of an address cannot be told from other words any more.
            said = redact(" ".join(str(error).split())).partition(". ")[0][:160]
            msg = (
                f"output.trackers: 'mlflow' cannot write to {package.get_tracking_uri()} ({said}); set "
                "MLFLOW_TRACKING_URI to a server, to sqlite:///mlflow.db with all of MLflow (`python -m pip install "
                "mlflow`), or with MLFLOW_ALLOW_FILE_STORE=true to a folder"
            )
            raise RecipeError(msg) from error
        return cls(client, entities)

    def start(self, run: TrackedRun) -> Tracked:
        """Begin a run, or go on with one."""
        experiment = run.project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        if run.key is not None:
            # Its values stay those that it began with: MLflow changes none.
            self.client.update_run(run.key, status="RUNNING")
            self.key = run.key
        else:
            found = self.client.get_experiment_by_name(experiment)
            number = self.client.create_experiment(experiment) if found is None else found.experiment_id
            self.key = self.client.create_run(number, run_name=run.name).info.run_id
            params = (
                self.entities.Param(_name(name), str(value)[:LONGEST_PARAM]) for name, value in run.values.items()
            )
            while some := list(itertools.islice(params, MOST_PARAMS)):
                self.client.log_batch(self.key, params=some)
        return Tracked(self.key, f"run {self.key} of {self.client.tracking_uri}")

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Log numbers of a step, without waiting for the server."""
        now = int(time.time() * 1000)
        metrics = [self.entities.Metric(_name(name), value, now, step) for name, value in numbers.items()]
        self.waiting.append(self.sender.submit(self.client.log_batch, self.key, metrics=metrics))
        while self.waiting and self.waiting[0].done():
            # What it has failed with is raised here.
            self.waiting.popleft().result()

    def show_answers(self, answers: Answers, step: int) -> None:
        """Write a file with a table, without waiting for the server."""
        file = f"answers/{step:07d}-{answers.when}.md"
        self.waiting.append(self.sender.submit(self.client.log_text, self.key, answers.write_table(), file))

    def end(self, ending: Ending) -> None:
        """Wait until all is sent."""
        try:
            for sent in self.waiting:
                sent.result()
        finally:
            self.sender.shutdown(cancel_futures=True)
            if self.key:
                self.client.set_terminated(self.key, STATES[ending])


def _name(name: str) -> str:
    return _REFUSED.sub("_", name)
