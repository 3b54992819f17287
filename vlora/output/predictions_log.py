"""predictions.jsonl: one object per answer, appended round by round, each with the step behind which it was given."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import attrs

from . import atomic
from .metrics_log import MetricsLog


@attrs.define
class PredictionsLog:
    """The file of one run; there is none before the first answer.

    Attributes:
        path: Where it is.
        n_bytes: What of it is a run's.
    """

    path: Path
    n_bytes: int = 0

    @classmethod
    def open(cls, path: Path, metrics: MetricsLog, after_step: int | None) -> "PredictionsLog":
        """Begin a file, or go on with one as if the run had never stopped.

        Args:
            path: The file.
            metrics: The run's metrics, opened before: of a run that had ended and now has more steps, the answers with
                which it ended stay.
            after_step: How many steps are done; None begins a file.
        """
        n_bytes = metrics.prediction_bytes
        if after_step is None or not path.is_file():
            path.unlink(missing_ok=True)
            return cls(path)
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        kept = min(n_bytes or 0, len(whole))
        for line in whole[kept:].splitlines(keepends=True):
            step = _step_of(line)
            is_last = step == after_step and metrics.keeps_last
            if not is_last and (n_bytes is not None or step > after_step):
                break
            kept += len(line)
        if kept < len(data):
            os.truncate(path, kept)
        return cls(path, kept)

    def write(self, lines: Iterator[str]) -> None:
        """Write a round of answers."""
        text = "".join(lines)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic.append_text(self.path, text)
        self.n_bytes += len(text.encode())

    def sync(self) -> None:
        """Let what was written be on the disk."""
        if self.path.is_file():
            atomic.sync(self.path)


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        # No line of a run's: it goes, and what is behind it.
        return float("inf")
