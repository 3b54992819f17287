"""metrics.jsonl: one object per start, report, validation and round of answers. It measures a run's time and memory."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx

from ..cuts import NAMED, measure_cuts
from ..events import Device, FeatureCounts, Reported, StepReport
from ..measured import PASSED, Measured, add_measured, find_means
from ..scores import Score
from ..types import Cut
from . import atomic

OF_THE_LAST = ("step", "running_loss", "learning_rate", "grad_norm", "n_traces", "trace_s")
"""What a line has of the last of its steps."""


@attrs.define(kw_only=True)
class Interval:
    """What the steps since the last line have summed up to.

    Attributes:
        n_steps: How many they are, without those that were passed over.
        n_passed: How many were passed over, since none of their rows can be learned from.
        loss: Their losses, each as often as it has terms.
        terms: Terms of the losses: of fine-tuning the supervised tokens.
        supervised: Supervised tokens.
        seconds: How long they took.
        tokens: Tokens, padding left out.
        places: Tokens, padding included.
        wait_s: Seconds that they waited for their rows.
        n_cut: Rows that were cut.
        n_lost: Tokens to be learned that were cut off.
        cut: The first rows that were cut.
        measured: What an objective measured beside the loss.
        last: The last one's step, running loss, learning rate and so on, as a line has them.
    """

    n_steps: int = 0
    n_passed: int = 0
    loss: float = 0.0
    terms: float = 0.0
    supervised: int = 0
    seconds: float = 0.0
    tokens: int = 0
    places: int = 0
    wait_s: float = 0.0
    n_cut: int = 0
    n_lost: int = 0
    cut: list[str] = attrs.field(factory=list)
    measured: Measured = attrs.field(factory=dict)
    last: dict[str, float] = attrs.field(factory=dict)

    def add(self, report: StepReport) -> None:
        """Take a step in."""
        self.n_steps += 1
        self.loss += report.loss * report.n_terms
        self.terms += report.n_terms
        self.supervised += report.supervised_tokens
        self.seconds += report.step_s
        self.tokens += report.tokens
        self.places += report.places
        self.wait_s += report.wait_s
        self.add_cuts(report.cuts)
        self.measured = add_measured(self.measured, report.measured)
        self.last = {name: getattr(report, name) for name in OF_THE_LAST}

    def add_cuts(self, cuts: Sequence[Cut]) -> None:
        """Count rows that were cut."""
        self.n_cut += len(cuts)
        self.n_lost += sum(cut.n_lost for cut in cuts)
        self.cut = [*self.cut, *(cut.source for cut in cuts)][:NAMED]


@attrs.frozen(kw_only=True)
class Mark:
    """How far the metrics of a run were when its state was saved.

    Attributes:
        n_lines: Lines of the file.
        validated: The last step whose state was validated; -1 for none.
        answered: The last step behind which rows were answered during training; -1 for none.
        prediction_bytes: Length of the file of answers; None if what saved the state wrote none.
        seconds: How long the run had gone on.
        interval: The steps since the last line.
        counts: The images since then: from memory, from disk, computed.
    """

    n_lines: int
    validated: int = -1
    answered: int = -1
    prediction_bytes: int | None = None
    seconds: float = 0.0
    interval: Mapping[str, Any] = attrs.field(factory=dict)
    counts: tuple[int, int, int] = (0, 0, 0)

    def dumps(self) -> str:
        """Write it as JSON."""
        return json.dumps(attrs.asdict(self))

    @classmethod
    def loads(cls, text: str) -> "Mark":
        """Read what `dumps` wrote."""
        found = json.loads(text)
        return cls(**{**found, "counts": tuple(found["counts"])})


@attrs.define
class MetricsLog:
    """The file of one run.

    Attributes:
        path: Where it is.
        n_lines: Lines that it has.
        accuracy: Of the rounds of answers so far, as the file names them.
        interval: The steps since the last line.
        counts: Where features of images had come from by then.
        validated: The last step whose state was validated; -1 for none.
        answered: The last step behind which rows were answered during training; -1 for none.
        prediction_bytes: Length of the file of answers when the state was saved; None if the state does not say it.
        keeps_last: Whether a round of answers behind the saved state stays.
        is_marked: Whether the run goes on from a state that said how far they were.
        began: When the run began, or would have if it had never stopped.
        first_step_at: When the run's first step was over, in seconds of Unix time; None until then, and once written.
    """

    path: Path
    n_lines: int = 0
    accuracy: dict[str, float] = attrs.field(factory=dict)
    interval: Interval = attrs.field(factory=Interval)
    counts: FeatureCounts = attrs.field(factory=FeatureCounts)
    validated: int = -1
    answered: int = -1
    prediction_bytes: int | None = None
    keeps_last: bool = False
    is_marked: bool = False
    began: float = attrs.field(factory=time.perf_counter)
    first_step_at: float | None = None
    _has_stepped: bool = attrs.field(default=False, init=False)
    _provisional: Mark | None = attrs.field(default=None, init=False)

    @classmethod
    def begin(cls, path: Path) -> "MetricsLog":
        """Begin a file; an earlier one of that name is replaced."""
        atomic.write_text(path, "")
        return cls(path)

    @property
    def has_steps(self) -> bool:
        """Whether a step is in no line yet, be it one that was passed over."""
        return self.interval.n_steps + self.interval.n_passed > 0

    def mark(self, counts: FeatureCounts | None, prediction_bytes: int | None = None) -> Mark:
        """Return the progress of the metrics, without a line that was written only because the run ends here."""
        if self._provisional is not None:
            return attrs.evolve(
                self._provisional,
                validated=self.validated,
                answered=self.answered,
                prediction_bytes=prediction_bytes,
            )
        new = counts or self.counts
        return Mark(
            n_lines=self.n_lines,
            validated=self.validated,
            answered=self.answered,
            prediction_bytes=prediction_bytes,
            seconds=time.perf_counter() - self.began,
            interval=attrs.asdict(self.interval),
            counts=(
                new.n_memory - self.counts.n_memory,
                new.n_disk - self.counts.n_disk,
                new.n_computed - self.counts.n_computed,
            ),
        )

    def add(self, report: StepReport) -> None:
        """Take a step into the next line."""
        if not self._has_stepped:
            self._has_stepped, self.first_step_at = True, time.time()
        self.interval.add(report)

    def pass_over(self, step: int) -> None:
        """Count a step that was passed over in the next line."""
        self.interval.n_passed += 1
        self.interval.last["step"] = step

    def write_start(
        self, device: Device, step: int, commits: Mapping[str, str] | None = None, n_frozen: int | None = None
    ) -> Reported:
        """Write what the run computes on, after which step it begins, and from which versions of the hub's files.

        Args:
            device: What it computes on.
            step: Steps done before.
            commits: The versions, by what they are of.
            n_frozen: Bytes of frozen weights that this device holds; None not to say.
        """
        return self.write(
            {
                "step": step,
                "device": device.kind,
                "device_name": device.name,
                "device_memory_gb": device.memory_bytes / 1e9,
                **{f"{name}_commit": commit for name, commit in (commits or {}).items()},
                **({} if n_frozen is None else {"frozen_gb": n_frozen / 1e9}),
            }
        )

    def write_interval(
        self, counts: FeatureCounts | None, shares: Mapping[str, float] | None = None, *, is_provisional: bool = False
    ) -> Reported:
        """Write the mean over the steps since the last line, and where features of images came from since then.

        Args:
            counts: As they are now.
            shares: What was learned of each source of a mixture, and on each of several devices.
            is_provisional: The line comes only because the run ends here; one that goes on writes its own instead.
        """
        sums, last = self.interval, self.interval.last
        if is_provisional:
            self._provisional = self.mark(counts)
        metrics = self._measure() if sums.n_steps else {"step": last["step"]}
        if sums.n_passed:
            metrics[PASSED] = sums.n_passed
        if self.first_step_at is not None:
            metrics["first_step_unix_time"] = self.first_step_at
        if counts is not None:
            metrics |= counts.since(self.counts)
        metrics |= shares or {}
        written = self.write({**metrics, **measure_cuts(sums.n_cut, sums.n_lost, sums.cut)})
        self.interval, self.first_step_at, self.counts = Interval(), None, counts or self.counts
        return written

    def _measure(self) -> dict[str, float]:
        """Find the means over the steps since the last line, and what it has of the last of them."""
        sums, last = self.interval, self.interval.last
        return {
            "step": last["step"],
            "loss": sums.loss / sums.terms,
            "running_loss": last["running_loss"],
            **find_means(sums.measured),
            "learning_rate": last["learning_rate"],
            "grad_norm": last["grad_norm"],
            "tokens_per_s": sums.tokens / sums.seconds,
            "supervised_tokens": sums.supervised,
            "padding": max(0.0, 1 - sums.tokens / sums.places),
            "wait_s": sums.wait_s,
            "n_traces": last["n_traces"],
            "trace_s": last["trace_s"],
            "seconds": time.perf_counter() - self.began,
            "peak_memory_gb": mx.get_peak_memory() / 1e9,
            "active_memory_gb": mx.get_active_memory() / 1e9,
            "cache_memory_gb": mx.get_cache_memory() / 1e9,
        }

    def write_scores(self, step: int, scores: Mapping[str, Score], n_rows: int) -> Reported:
        """Write what metrics say of a round of answers, each with its interval where it has one."""
        values = {
            f"eval_{name}{end}": value
            for name, score in scores.items()
            for end, value in (("", score.mean), ("_low", score.low), ("_high", score.high))
            if value is not None
        }
        return self.write({"step": step, "eval_rows": n_rows, **values})

    def write(self, metrics: Mapping[str, float | str]) -> Reported:
        """Write a line, and when it was written."""
        line = {**metrics, "unix_time": time.time()}
        atomic.append_text(self.path, json.dumps(line, allow_nan=False) + "\n")
        self.n_lines += 1
        return Reported(metrics=line)
