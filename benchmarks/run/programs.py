"""The programs that are compared: how each is started, and what it says of its run."""

import functools
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

from ..cases import LEARNING_RATE, RANK
from .devices import ONE, count_devices, make_loss_options, read_losses
from .figures import Course, MeasureError, Trace, check_device, measure_run, read_device, read_metrics
from .processes import Ended, make_environment, run

Start = Literal["cold", "new rows", "warm"]
"""With an empty kernel cache; with what other rows of the same model have left there; with what the same rows have."""

METRICS = "metrics.jsonl"
NEVER = 1_000_000
COLD_STEPS = 2
"""Of a peer's cold run, of which only the first step is of interest."""

PEER_REPORT = re.compile(r"Training \(iteration (\d+)\)")
PEER_PEAK = re.compile(r"peak_memory=([\d.e+-]+)")


class SkippedError(MeasureError):
    """A program cannot run here, because a package is not installed."""


@attrs.frozen(kw_only=True)
class Job:
    """What one set of rows, or one recipe, gives the programs to do.

    Attributes:
        name: The set's, or the recipe's.
        recipe: vlora's.
        caches: Jobs of the same name share their programs' kernel caches.
        course: What an epoch is; None if nothing says so before the run.
        model: The model's folder, for the peers.
        rows: The JSONL file, for the peers.
        peer_steps: After which the peers' runs are cut.
        max_seq_length: Tokens of a row at most.
        objective: What is minimised, "sft" or "dpo".
    """

    name: str
    recipe: Path
    caches: str
    course: Course | None
    model: Path | None = None
    rows: Path | None = None
    peer_steps: int = 0
    max_seq_length: int = 2048
    objective: str = "sft"


@attrs.frozen(kw_only=True)
class Program:
    """A program that is measured.

    Attributes:
        name: As on the command line.
        command: Makes the command of a run, from the job, the run's own folder, and the steps after which it is cut.
        trace: Reads what a run says of itself, from its folder and its process.
        device: Reads on what a run computes, from its folder, while it goes on.
        devices: On how many it runs, each with a batch of the job's.
        is_peer: Whether vlora is compared with it. Peers' runs are cut after some steps; they compile no functions of
            their own, so that new rows need no new kernels.
    """

    name: str
    command: Callable[[Job, Path, int], Sequence[str]]
    trace: Callable[[Path, Ended], Trace]
    device: Callable[[Path], Trace] = lambda _: Trace(marks=())
    devices: int = 1
    is_peer: bool = True


def _command_vlora(job: Job, folder: Path, _: int, n_devices: int = 1) -> list[str]:
    options = ["--devices", str(n_devices)] if n_devices > 1 else []
    if job.course is not None:
        options += ["--set", f"train.steps_per_report={job.course.on(n_devices).report_every}"]
    return command_vlora(job, folder, options)


def command_vlora(job: Job, folder: Path, options: Sequence[str]) -> list[str]:
    """Make the command of a run of vlora in a folder of its own."""
    own = [f"output.path={folder / 'output'}", f"features.path={folder / 'features'}"]
    sets = [part for assignment in own for part in ("--set", assignment)]
    return [sys.executable, "-m", "vlora", str(job.recipe), *sets, *options]


def _trace_vlora(folder: Path, _: Ended) -> Trace:
    path = folder / "output" / METRICS
    if not path.is_file():
        msg = f"vlora: there is no {path}, although the run ended well"
        raise MeasureError(msg)
    return read_metrics(path.read_text(encoding="utf-8"))


def _device_vlora(folder: Path) -> Trace:
    path = folder / "output" / METRICS
    return read_device(path.read_text(encoding="utf-8") if path.is_file() else "")


def _command_mlx_vlm(job: Job, folder: Path, steps: int) -> list[str]:
    options = {
        "model": job.model,
        "data": job.rows,
        "iters": steps,
        "batch-size": None if job.course is None else job.course.batch,
        "learning-rate": LEARNING_RATE,
        "lora-rank": RANK,
        "lora-alpha": 2 * RANK,
        "max-seq-length": job.max_seq_length,
        "steps-per-report": 1,
        "steps-per-save": NEVER,
        "output-path": folder / "adapters.safetensors",
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    # Of pairs the answers alone are learned in any case; its reference is a second model.
    mode = ["--train-mode", "dpo"] if job.objective == "dpo" else ["--train-on-completions"]
    return [sys.executable, "-m", "mlx_vlm.train", *mode, *flags]


def read_peer(lines: Sequence[tuple[float, str]]) -> Trace:
    """Read mlx-vlm's reports of every step, each written as its step ends.

    Raises:
        MeasureError: There is none.
    """
    marks = [(int(found[1]), at) for at, line in lines if (found := PEER_REPORT.search(line))]
    if not marks:
        msg = "mlx-vlm: no line 'Training (iteration N)' on its output; its version has another form of reports"
        raise MeasureError(msg)
    peaks = [float(found[1]) for _, line in lines if (found := PEER_PEAK.search(line))]
    return Trace(marks=tuple(marks), peak_device_gb=max(peaks, default=None))


def _command_trl(job: Job, folder: Path, steps: int) -> list[str]:
    batch = "" if job.course is None else str(job.course.batch)
    arguments = [str(job.model), str(job.rows), batch, str(steps), str(folder / "trl.json")]
    return [sys.executable, "-m", f"benchmarks.sides.trl_{job.objective}", *arguments]


def _trace_trl(folder: Path, _: Ended) -> Trace:
    found = json.loads((folder / "trl.json").read_text(encoding="utf-8"))
    if "skipped" in found:
        raise SkippedError(found["skipped"])
    return Trace(
        marks=tuple(enumerate(found["marks"], start=1)),
        device=found["device"],
        device_name=found["device_name"],
        peak_device_gb=found["peak_device_gb"],
    )


PROGRAMS = {
    program.name: program
    for program in (
        Program(name="vlora", command=_command_vlora, trace=_trace_vlora, device=_device_vlora, is_peer=False),
        Program(name="mlx-vlm", command=_command_mlx_vlm, trace=lambda _, ended: read_peer(ended.lines)),
        Program(name="trl", command=_command_trl, trace=_trace_trl),
    )
}


def find_program(name: str) -> Program:
    """Find a program by its name; `name_program` names vlora on several devices."""
    n_devices = count_devices(name)
    if n_devices is None or name in PROGRAMS:
        return PROGRAMS[name]
    command = functools.partial(_command_vlora, n_devices=n_devices)
    return attrs.evolve(PROGRAMS[ONE], name=name, command=command, devices=n_devices)


@attrs.frozen(kw_only=True)
class Place:
    """Where runs are made, and what holds for all of them.

    Attributes:
        folder: Of all runs.
        caches_folder: Of the programs' kernel caches and temporary files; a short path, as sockets are made there.
        device: What has to be computed on; None for any.
        limit_s: How long a process may take.
        own_caches: Kernels are kept where whoever runs the benchmark keeps them; there are no cold runs then.
    """

    folder: Path
    caches_folder: Path
    device: str | None
    limit_s: float
    own_caches: bool

    def caches(self, job: Job, program: Program) -> Path | None:
        """Name the kernel cache of a program and a job; None for the user's own."""
        return None if self.own_caches else self.caches_folder / f"{job.caches}-{program.name}"

    def make_run_folder(self, name: str) -> Path:
        """Make a folder of its own for a run."""
        runs = self.folder / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=runs))

    def measure(self, job: Job, program: Program, start: Start) -> dict[str, Any]:
        """Run a program once, and measure it.

        Args:
            job: What it does.
            program: Which one.
            start: "cold" empties its kernel cache before.

        Raises:
            ProgramError: It failed, or took too long.
            DeviceError: It computes on another device than the one that was asked for; it is ended at once.
            MeasureError: It ran, but not as it should be measured.
        """
        caches = self.caches(job, program)
        if start == "cold" and caches is not None:
            shutil.rmtree(caches, ignore_errors=True)
        folder = self.make_run_folder(f"{job.name}-{program.name}-{start.replace(' ', '-')}")
        steps = COLD_STEPS if start == "cold" else job.peer_steps
        name = f"{program.name} on {job.name}"
        command, environment = program.command(job, folder, steps), make_environment(caches, folder)
        try:
            # Watched: a large model that falls back to the CPU would take hours.
            ended = run(
                command,
                folder,
                environment,
                self.limit_s,
                lambda: check_device(name, program.device(folder), self.device),
            )
            trace = program.trace(folder, ended)
        finally:
            # Gigabytes, and of no use to another run.
            shutil.rmtree(folder / "features", ignore_errors=True)
        check_device(name, trace, self.device)
        course = None if job.course is None or (program.is_peer and start == "cold") else job.course.on(program.devices)
        return measure_run(trace, course, spawned=ended.spawned, total_s=ended.total_s, peak_host=ended.peak_host)

    def find_losses(self, job: Job, n_devices: int, n_microbatches: int) -> list[float]:
        """Train the first steps of a job, and give their losses.

        Args:
            job: What is trained.
            n_devices: On how many devices.
            n_microbatches: Batches that each device adds up in a step.

        Raises:
            ProgramError: It failed, or took too long.
            MeasureError: It did not report every step.
        """
        folder = self.make_run_folder(f"{job.name}-losses-{n_devices}")
        command = command_vlora(job, folder, make_loss_options(n_devices, n_microbatches))
        caches = self.caches(job, PROGRAMS[ONE])
        try:
            run(command, folder, make_environment(caches, folder), self.limit_s)
        finally:
            shutil.rmtree(folder / "features", ignore_errors=True)
        return read_losses(folder / "output" / METRICS)

    def ask(self, name: str, module: str, *arguments: str, caches: Path | None = None) -> dict[str, Any]:
        """Run a module of the benchmark's own that writes its findings to the file named last.

        Raises:
            ProgramError: It failed, or took too long.
        """
        folder = self.make_run_folder(name)
        file = folder / "found.json"
        run(
            [sys.executable, "-m", module, *arguments, str(file)],
            folder,
            make_environment(caches, folder),
            self.limit_s,
        )
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found
