"""Runs inputs in forks of a process that has imported everything: a fresh state for each, in a fifth of a second.

The process itself computes nothing: what MLX has begun to compute with does not survive a fork.
"""

import atexit
import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from .trials import (
    ERR_NAME,
    LEARN_BEGIN,
    LEARN_END,
    LEARNED_NAME,
    OUT_NAME,
    TRIAL_NAME,
    Ended,
    Judged,
    Trial,
    judge,
    spell,
)

Generate = Callable[[random.Random, Path, Path], Trial]
"""Makes an input of a kind: random numbers, an empty folder, and the folder with what all inputs share."""

POLL_S = 0.005
FAILED = 70


@attrs.frozen(kw_only=True)
class Limits:
    """What an input may take.

    Attributes:
        seconds: Until it counts as hung.
        memory_gb: Address space, beyond what the process has that is forked.
        at_once: Inputs that run side by side.
    """

    seconds: float = 60.0
    memory_gb: float = 8.0
    at_once: int = 2


@attrs.frozen(kw_only=True)
class Job:
    """An input that is to be made and run.

    Attributes:
        kind: The kind of input.
        number: Its number.
        seed: With both of these, all that it depends on.
    """

    kind: str
    number: int
    seed: int


def run_jobs(
    jobs: Iterable[Job], kinds: dict[str, Generate], shared: Path, folder: Path, limits: Limits, *, keep: bool
) -> Iterator[Judged]:
    """Run inputs, some side by side, and judge each as it ends.

    Args:
        jobs: The inputs.
        kinds: What makes them.
        shared: What they share.
        folder: Where each gets a folder of its own.
        limits: What each may take.
        keep: Leave the folders of those that did not end as they should.
    """
    waiting, running = iter(jobs), dict[int, tuple[Job, Path, float]]()
    while True:
        while len(running) < limits.at_once and (job := next(waiting, None)) is not None:
            own = folder / f"{job.kind}-{job.number}"
            own.mkdir(parents=True)
            running[fork(partial(_run, job, kinds, shared, own), own, limits)] = (job, own, now())
        if not running:
            return
        for process in list(running):
            job, own, begin = running[process]
            ended = _look(process, begin, own, limits)
            if ended is not None:
                del running[process]
                judged = judge(job.kind, job.number, own, ended)
                if not keep or judged.verdict == "as expected":
                    shutil.rmtree(own, ignore_errors=True)
                yield judged
        time.sleep(POLL_S)


def now() -> float:
    """Read the clock."""
    return time.perf_counter()


def _look(process: int, begin: float, own: Path, limits: Limits) -> Ended | None:
    """Say what a process has ended with; None if it still runs and may."""
    found, status = os.waitpid(process, os.WNOHANG)
    is_hung = not found and now() - begin > limits.seconds
    if is_hung:
        # With what it has started.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
        found, status = os.waitpid(process, 0)
    if not found:
        return None
    return Ended(
        status=os.waitstatus_to_exitcode(status),
        seconds=now() - begin,
        is_hung=is_hung,
        out=_read(own / OUT_NAME),
        err=_read(own / ERR_NAME),
    )


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="backslashreplace") if path.exists() else ""


def fork(act: Callable[[], int], own: Path, limits: Limits) -> int:
    """Do something in a process of its own, which prints into files of a folder.

    Returns:
        Its number.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    status = FAILED
    try:
        os.setsid()
        _redirect(own)
        _limit(limits)
        status = act()
    except BaseException:  # noqa: BLE001 - whatever it was: nothing may go on in the copy of this process
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _redirect(own: Path) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, OUT_NAME), (2, ERR_NAME)):
        os.dup2(os.open(own / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb"), encoding="utf-8", write_through=True)
    sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb"), encoding="utf-8", errors="backslashreplace", write_through=True)


def _limit(limits: Limits) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) if Path("/proc").exists() else 0
    if pages:
        most = pages * resource.getpagesize() + int(limits.memory_gb * 1e9)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _run(job: Job, kinds: dict[str, Generate], shared: Path, own: Path) -> int:
    """Make an input, write down what is to come of it, and run the command as a process of its own would."""
    from vlora.cli.main import main

    work = own / "work"
    work.mkdir()
    trial = kinds[job.kind](random.Random(f"{job.seed}/{job.kind}/{job.number}"), work, shared)
    os.chdir(work)
    (own / TRIAL_NAME).write_text(json.dumps(attrs.asdict(trial)), encoding="utf-8")
    if trial.expected == "learned":
        _write_what_is_learned(own / LEARNED_NAME)
    try:
        status = main(trial.arguments)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    # What the interpreter does at its end.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    return status


def _write_what_is_learned(file: Path) -> None:
    """Let `inspect` write down, besides what it prints, what every row teaches: exactly, and from its tokens alone."""
    from vlora.report import inspect as inspection

    spelled: list[str | None] = []
    describe, inspect = inspection.describe, inspection.inspect_rows

    def describe_too(example: Any, decode: Any) -> Any:
        spelled.append(_spell(example, decode))
        return describe(example, decode)

    def inspect_too(*arguments: Any, **others: Any) -> Iterator[Any]:
        for row in inspect(*arguments, **others):
            if row.problem is not None:
                spelled.append(None)
            file.write_text(json.dumps(spelled), encoding="utf-8")
            yield row

    inspection.describe, inspection.inspect_rows = describe_too, inspect_too


def _spell(example: Any, decode: Callable[[list[int]], str]) -> str:
    text, is_learned, begin = "", False, 0
    supervised = [*example.supervised.tolist(), None]
    for place, learned in enumerate(supervised):
        if learned != is_learned:
            piece = decode(example.tokens[begin:place].tolist())
            text += f"{LEARN_BEGIN}{piece}{LEARN_END}" if is_learned else piece
            begin, is_learned = place, bool(learned)
    return spell(text, "<|image_pad|>")
