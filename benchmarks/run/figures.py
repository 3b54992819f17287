"""From what a run has left to its figures. Pure."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

DEFAULT_REPORT = 10
"""vlora's own `train.steps_per_report`."""


class MeasureError(RuntimeError):
    """A run's own records do not say what is measured."""


class DeviceError(MeasureError):
    """A run computed on another device than the one that was asked for."""


@attrs.frozen(kw_only=True)
class Course:
    """What an epoch is, the same for every program.

    Attributes:
        rows: Of an epoch.
        tokens: Of those rows, padding left out, as the model's own processor makes them.
        batch: Rows of a step.
    """

    rows: int
    tokens: int
    batch: int

    def on(self, n_devices: int) -> "Course":
        """Give what an epoch is where each of several devices takes a batch of its own."""
        return attrs.evolve(self, batch=self.batch * n_devices)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return -(-self.rows // self.batch)

    def rows_until(self, step: int) -> int:
        """Count the rows of the first steps of a run."""
        epochs, rest = divmod(step, self.steps)
        return epochs * self.rows + min(rest * self.batch, self.rows)

    @property
    def report_every(self) -> int:
        """Steps between reports so that every epoch ends with one: vlora's default, or the next smaller divisor."""
        return next(every for every in range(DEFAULT_REPORT, 0, -1) if self.steps % every == 0)


@attrs.frozen(kw_only=True)
class Trace:
    """What a run says of itself.

    Attributes:
        marks: (step, seconds of Unix time at its end), in order; the first is that of step 1.
        device: What it computed on, "cpu", "cuda" or "metal"; None if the program does not tell.
        device_name: The device's own name.
        peak_device_gb: Most memory of the device in use, in 10^9 bytes; None if the program does not tell. Of several
            devices it is the first one's.
        shares: What each of several devices did, by what it is.
    """

    marks: tuple[tuple[int, float], ...]
    device: str | None = None
    device_name: str | None = None
    peak_device_gb: float | None = None
    shares: Mapping[str, Sequence[int]] = attrs.field(factory=dict)


def read_device(text: str) -> Trace:
    """Read on what a vlora run computes, from a metrics.jsonl that it may still be writing."""
    whole = text[: text.rfind("\n") + 1]
    start: dict[str, Any] = next((line for line in map(json.loads, whole.splitlines()) if "device" in line), {})
    return Trace(marks=(), device=start.get("device"), device_name=start.get("device_name"))


def read_metrics(text: str) -> Trace:
    """Read the metrics.jsonl of a vlora run that has ended.

    Raises:
        MeasureError: It does not say on what the run computed, or when the first step ended.
    """
    lines = [json.loads(line) for line in text.splitlines()]
    found = read_device(text)
    reports = [line for line in lines if "learning_rate" in line]
    if found.device is None or not reports or "first_step_unix_time" not in reports[0]:
        msg = "metrics.jsonl: no line has device, or first_step_unix_time; the run ended before its first report"
        raise MeasureError(msg)
    first = (1, reports[0]["first_step_unix_time"])
    later = [(line["step"], line["unix_time"]) for line in reports if line["step"] > 1]
    shares = read_shares(lines)
    return attrs.evolve(found, marks=(first, *later), peak_device_gb=reports[-1]["peak_memory_gb"], shares=shares)


def read_shares(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Read from lines of metrics the rows that each of several devices learned, and whose images it computed."""
    told: Mapping[str, Any] = next((line for line in reversed(lines) if "device0/rows" in line), {})
    words = {"rows": "rows learned", "features_computed": "features of images computed"}
    return {
        said: [int(told[key]) for rank in range(len(told)) if (key := f"device{rank}/{what}") in told]
        for what, said in words.items()
        if f"device0/{what}" in told
    }


def check_device(program: str, trace: Trace, wanted: str | None) -> None:
    """Refuse figures of another device.

    Args:
        program: Which program ran.
        trace: What it says of itself.
        wanted: The device that was asked for; None for any.

    Raises:
        DeviceError: It is another one.
    """
    if wanted is not None and trace.device is not None and trace.device != wanted:
        msg = (
            f"{program}: computed on {trace.device!r} ({trace.device_name}), but --kind asks for {wanted!r}; install "
            "what computes on it, or give the --kind of this machine"
        )
        raise DeviceError(msg)


def measure_epochs(trace: Trace, course: Course) -> list[dict[str, float]]:
    """Measure a run epoch by epoch, stalls included.

    Args:
        trace: The run's.
        course: What an epoch is.

    Returns:
        For the first epoch from the end of step 1, for each later one from the end of the epoch before: steps, rows,
        seconds, rows and unpadded tokens per second. An epoch that was cut counts up to its last mark; one whose
        beginning or end was not marked is left out.
    """
    found: list[dict[str, float]] = []
    times = dict(trace.marks)
    begin = 1
    while (began := times.get(begin)) is not None:
        limit = course.steps * (len(found) + 1)
        end = max((step for step in times if begin < step <= limit), default=begin)
        if end == begin:
            break
        seconds = times[end] - began
        rows = course.rows_until(end) - course.rows_until(begin)
        found.append(
            {
                "steps": end - begin,
                "rows": rows,
                "seconds": seconds,
                "step_s": seconds / (end - begin),
                "rows_per_s": rows / seconds,
                "tokens_per_s": rows * course.tokens / course.rows / seconds,
            }
        )
        if end != limit:
            break
        begin = limit
    return found


def measure_run(
    trace: Trace, course: Course | None, *, spawned: float, total_s: float, peak_host: int
) -> dict[str, Any]:
    """Measure a run.

    Args:
        trace: What it says of itself.
        course: What an epoch is; None if nothing says so before the run.
        spawned: When its process was started, in seconds of Unix time.
        total_s: From then to the process's end.
        peak_host: Most host memory that the process had, in bytes.

    Returns:
        Seconds to the end of step 1, the epochs, memory in 10^9 bytes, seconds in all.
    """
    epochs = [] if course is None else measure_epochs(trace, course)
    figures: dict[str, Any] = {"first_step_s": trace.marks[0][1] - spawned}
    for number, epoch in enumerate(epochs, start=1):
        figures |= {f"epoch{number}_{name}": value for name, value in epoch.items()}
    return figures | {
        "total_s": total_s,
        "peak_device_gb": trace.peak_device_gb,
        "peak_host_gb": peak_host / 1e9,
        "device": trace.device,
        **({"shares": trace.shares} if trace.shares else {}),
    }


def sum_up(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum up runs of the same: of each number the median, and the least and the most where there are several.

    Numbers that not every run has are left out.
    """
    summary: dict[str, Any] = {"runs": len(runs)}
    for name, value in runs[0].items():
        values = [found for run in runs if isinstance(found := run.get(name), int | float)]
        if not isinstance(value, int | float) or len(values) < len(runs):
            continue
        summary[name] = statistics.median(values)
        if len(runs) > 1:
            summary |= {f"{name}_least": min(values), f"{name}_most": max(values)}
    return summary


def compare(programs: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Divide vlora's figures by the others'.

    Args:
        programs: By name "vlora warm", "mlx-vlm warm", "trl warm", "on the device", ...: as `sum_up` gives them.

    Returns:
        Ratios of tokens per second of both epochs to the peers' first, and of what the same batches took on the device
        to what the run took; above 1 for a run that is faster than the peer, or slower than its own steps.
    """
    ours = programs.get("vlora warm", {})
    ratios = {}
    for number in (1, 2):
        speed = ours.get(f"epoch{number}_tokens_per_s")
        for peer in ("mlx-vlm", "trl"):
            theirs = programs.get(f"{peer} warm", {}).get("epoch1_tokens_per_s")
            if speed and theirs:
                ratios[f"epoch {number}, tokens/s over {peer}'s"] = speed / theirs
        steps = programs.get("on the device", {}).get(f"epoch{number}_tokens_per_s")
        if speed and steps:
            ratios[f"epoch {number}, time over that of its batches on the device"] = steps / speed
    return ratios


COLUMNS = (
    ("first step s", "first_step_s", ".1f"),
    ("epoch 1 rows/s", "epoch1_rows_per_s", ",.1f"),
    ("tokens/s", "epoch1_tokens_per_s", ",.0f"),
    ("s a step", "epoch1_step_s", ".3f"),
    ("epoch 2 rows/s", "epoch2_rows_per_s", ",.1f"),
    ("tokens/s", "epoch2_tokens_per_s", ",.0f"),
    ("s a step", "epoch2_step_s", ".3f"),
    ("device GB", "peak_device_gb", ".2f"),
    ("host GB", "peak_host_gb", ".2f"),
    ("total s", "total_s", ".1f"),
)


def show_table(title: str, programs: Mapping[str, Mapping[str, Any]], ratios: Mapping[str, float]) -> list[str]:
    """Lay out the figures of a set as a Markdown table, spread behind the median, and the ratios below it."""
    lines = [title, "", _join(["", *(head for head, _, _ in COLUMNS)]), _join(["---"] * (len(COLUMNS) + 1))]
    for name, figures in programs.items():
        reason = next((f"{word}: {figures[word]}" for word in ("skipped", "failed") if word in figures), None)
        cells = [reason] if reason else [_show(figures, key, form) for _, key, form in COLUMNS]
        lines.append(_join([name, *cells]))
    lines += ["", *(f"{name}: {ratio:.2f}" for name, ratio in ratios.items())]
    return [*lines, ""]


def _join(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _show(figures: Mapping[str, Any], key: str, form: str) -> str:
    if figures.get(key) is None:
        return ""
    shown = format(figures[key], form)
    if f"{key}_least" not in figures:
        return shown
    return f"{shown} ({figures[f'{key}_least']:{form}} to {figures[f'{key}_most']:{form}})"
