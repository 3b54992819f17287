"""metrics.jsonl: one object per start, report, validation and round of answers. It measures a run's time and memory."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
import mlx.core as mx

from . import checkpoint
from .cuts import measure_cuts
from .errors import CheckpointError
from .events import Device, FeatureCounts, Reported, StepReport


@attrs.define
class Metrics:
    """The file of one run.

    Attributes:
        path: Where it is.
        accuracy: Of the rounds of answers so far, as the file names them.
        reports: The steps since the last line.
        counts: Where features of images had come from by then.
        began: When the file was opened.
        first_step_at: When the run's first step was over, in seconds of Unix time; None until then, and once written.
    """

    path: Path
    accuracy: dict[str, float] = attrs.field(factory=dict)
    reports: list[StepReport] = attrs.field(factory=list)
    counts: FeatureCounts = attrs.field(factory=FeatureCounts)
    began: float = attrs.field(factory=time.perf_counter)
    first_step_at: float | None = None
    _has_stepped: bool = attrs.field(default=False, init=False)

    @classmethod
    def open(cls, path: Path, after_step: int | None) -> "Metrics":
        """Begin a file, or go on with one after the lines of the steps that were done.

        Raises:
            CheckpointError: The file to go on with has lines that are not a run's.
        """
        lines: list[dict[str, float]] = []
        if after_step is not None and path.is_file():
            lines = [line for line in _read_lines(path) if line["step"] <= after_step]
        checkpoint.write_text(path, "".join(f"{json.dumps(line)}\n" for line in lines))
        before = [line["accuracy_before"] for line in lines if "accuracy_before" in line]
        return cls(path, accuracy={"accuracy_before": before[0]} if before else {})

    def add(self, report: StepReport) -> None:
        """Take a step into the next line."""
        if not self._has_stepped:
            self._has_stepped, self.first_step_at = True, time.time()
        self.reports.append(report)

    def write_start(self, device: Device, step: int) -> Reported:
        """Write what the run computes on, and after which step it begins."""
        return self.write(
            {
                "step": step,
                "device": device.kind,
                "device_name": device.name,
                "device_memory_gb": device.memory_bytes / 1e9,
            }
        )

    def write_interval(self, counts: FeatureCounts | None) -> Reported:
        """Write the mean over the steps since the last line, and where features of images came from since then."""
        supervised = sum(report.supervised_tokens for report in self.reports)
        seconds = sum(report.step_s for report in self.reports)
        n_tokens = sum(report.tokens for report in self.reports)
        last = self.reports[-1]
        metrics = {
            "step": last.step,
            "loss": sum(report.loss * report.supervised_tokens for report in self.reports) / supervised,
            "running_loss": last.running_loss,
            "learning_rate": last.learning_rate,
            "grad_norm": last.grad_norm,
            "tokens_per_s": n_tokens / seconds,
            "supervised_tokens": supervised,
            "padding": max(0.0, 1 - n_tokens / sum(report.places for report in self.reports)),
            "wait_s": sum(report.wait_s for report in self.reports),
            "n_traces": last.n_traces,
            "trace_s": last.trace_s,
            "seconds": time.perf_counter() - self.began,
            "peak_memory_gb": mx.get_peak_memory() / 1e9,
            "active_memory_gb": mx.get_active_memory() / 1e9,
            "cache_memory_gb": mx.get_cache_memory() / 1e9,
        }
        cuts = measure_cuts([cut for report in self.reports for cut in report.cuts])
        self.reports.clear()
        if self.first_step_at is not None:
            metrics["first_step_unix_time"], self.first_step_at = self.first_step_at, None
        if counts is not None:
            metrics |= counts.since(self.counts)
            self.counts = counts
        return self.write({**metrics, **cuts})

    def write(self, metrics: Mapping[str, float | str]) -> Reported:
        """Write a line, and when it was written."""
        line = {**metrics, "unix_time": time.time()}
        checkpoint.append_text(self.path, json.dumps(line, allow_nan=False) + "\n")
        return Reported(metrics=line)


def _read_lines(path: Path) -> Iterator[dict[str, float]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, text in enumerate(lines, start=1):
        try:
            line = json.loads(text)
            int(line["step"])
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                # What a run that was killed had begun to write; it was behind its last saved state.
                return
            msg = f"{path}: line {number} is not one of a run's metrics: {text[:80]!r}; mend the file, or move it away"
            raise CheckpointError(msg) from None
        yield line
