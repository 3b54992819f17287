"""Continues metrics.jsonl as if the run had never stopped: lines behind the saved state are dropped."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import CheckpointError
from ..events import FeatureCounts
from . import atomic
from .metrics_log import Interval, Mark, MetricsLog


def resume_metrics(path: Path, after_step: int, mark: str | None = None, *, is_over: bool = False) -> MetricsLog:
    """Continue a run's file of metrics.

    Lines that were written after the state was saved are removed: their steps are going to be reported again.

    Args:
        path: The file.
        after_step: The number of steps that are done.
        mark: What `Mark.dumps` returned when the state was saved; None if an older vlora saved it.
        is_over: Whether no step is left, so that rows are answered once more.

    Raises:
        CheckpointError: The file has lines that are not a run's.
    """
    saved = None if mark is None else Mark.loads(mark)
    found = list(_read_lines(path, after_step, saved)) if path.is_file() else []
    answers: list[dict[str, float]] = []
    if saved is None:
        lines = [line for line in found if line["step"] <= after_step]
    else:
        # A run that had ended and now has more steps keeps what its model answered in the end.
        answers = [] if is_over else _last_round(found[saved.n_lines :])
        lines = found[: saved.n_lines] + answers
    atomic.write_text(path, "".join(f"{json.dumps(line)}\n" for line in lines))
    before = [line["accuracy_before"] for line in lines if "accuracy_before" in line]
    metrics = MetricsLog(
        path,
        n_lines=len(lines),
        accuracy={"accuracy_before": before[0]} if before else {},
        keeps_last=bool(answers),
    )
    if saved is not None:
        _restore(metrics, saved)
    if answers:
        metrics.answered = after_step
    return metrics


def _restore(metrics: MetricsLog, mark: Mark) -> None:
    """Set what the file's last line does not say: the steps since then, and how far the run was."""
    # A state of an older vlora counts no terms: they were the supervised tokens.
    metrics.interval = Interval(**{"terms": mark.interval.get("supervised", 0), **mark.interval})
    metrics.validated, metrics.answered, metrics.is_marked = mark.validated, mark.answered, True
    metrics.prediction_bytes = mark.prediction_bytes
    metrics.began -= mark.seconds
    memory, disk, computed = mark.counts
    # What was counted since the last line comes on top of what will be.
    metrics.counts = FeatureCounts(n_memory=-memory, n_disk=-disk, n_computed=-computed)


def _last_round(lines: Iterable[dict[str, float]]) -> list[dict[str, float]]:
    """Find the lines of the round of answers with which a run had ended."""
    rounds = [line for line in lines if {"accuracy_after", "eval_rows"} & line.keys()]
    ends = [number for number, line in enumerate(rounds) if "accuracy_after" in line]
    return rounds[: ends[0] + 1] if ends else []


def _read_lines(path: Path, after_step: int, mark: Mark | None) -> Iterator[dict[str, float]]:
    """Read the lines of a file; what is behind the saved state need not be whole."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, text in enumerate(lines, start=1):
        try:
            line = json.loads(text)
            step = int(line["step"])
        except (ValueError, KeyError, TypeError):
            if number == len(lines) or (mark is not None and number > mark.n_lines):
                # What a run that was killed had begun to write; it was behind its last saved state.
                return
            msg = f"{path}: line {number} is not one of a run's metrics: {text[:80]!r}; mend the file, or move it away"
            raise CheckpointError(msg) from None
        if mark is not None and number > mark.n_lines and step > after_step:
            return
        yield line
