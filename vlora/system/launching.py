"""The processes of a run on several devices of one host: started together, watched, and ended together.

None looks for the others before all are there: one that lives and is late is waited for.

The first one has the terminal. Of the others is shown what they failed with. A run in which one process has failed, was
killed or hangs cannot go on: the others would wait for it forever, so that all are ended.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, Any

import attrs

from .heartbeat import DESCRIPTOR, IS_HERE, START, WAITS

SILENT_S = 30.0
"""After so long without a sign of life a process hangs."""

STARTS_S = 600.0
"""And after so long without its first one: behind its start, or behind that of the last process that came."""

STUCK_S, STUCK_AT_FIRST_S = 45.0, 900.0
"""For how long all may wait for one another: a step that takes longer has been seen before, or is one of the first."""

LONGER = 10
"""How many times the longest wait that ended all may wait."""

GRACE_S = 5.0
"""Between the signal that asks a process to end and the one that ends it."""

FIRST_FAILS_S = 2.0
"""For how long the first process may still fail with what another one has failed with: it is the one to tell of it."""

POLL_S = 0.2
SHOWN_BYTES = 4000
GOES_ON = "What was saved last is whole: --resume-or-start goes on from there"
FAILED = 1


@attrs.define(eq=False)
class _Process:
    """One of the processes.

    Attributes:
        number: Which one, from 0.
        popen: The process.
        pulse: Where its signs of life are read.
        start: Is closed when all processes are there.
        errors: What it has written to its standard error; None of the first, which has the terminal.
        heard: When it gave its last sign of life, or was started.
        is_here: Whether it has come so far that it can look for the others.
        is_beating: Whether it gives signs of life.
        waits_since: Since when it has been waiting; None while it works.
        longest_wait: The longest of its waits that ended, in seconds.
    """

    number: int
    popen: "subprocess.Popen[bytes]"
    pulse: int
    start: IO[bytes]
    errors: IO[bytes] | None
    heard: float
    is_here: bool = False
    is_beating: bool = False
    waits_since: float | None = None
    longest_wait: float = 0.0

    def hear(self) -> None:
        """Read its signs of life."""
        beats = os.read(self.pulse, 4096)
        if not beats:
            return
        self.heard = now = time.monotonic()
        self.is_here = self.is_here or IS_HERE in beats
        beats = beats.replace(IS_HERE, b"")
        self.is_beating = self.is_beating or bool(beats)
        if beats[-1:] == WAITS:
            self.waits_since = now if self.waits_since is None else self.waits_since
        elif self.waits_since is not None:
            self.longest_wait = max(self.longest_wait, now - self.waits_since)
            self.waits_since = None

    @property
    def silence_s(self) -> float | None:
        """For how many seconds it has given no sign of life; None if that is no sign that it hangs."""
        silent_s = time.monotonic() - self.heard
        is_too_long = silent_s > (SILENT_S if self.is_beating else STARTS_S)
        return silent_s if is_too_long and self.popen.poll() is None else None

    @property
    def waits_s(self) -> float:
        """For how many seconds it has been waiting."""
        return 0.0 if self.waits_since is None else time.monotonic() - self.waits_since

    def last_words(self) -> str:
        """Give the end of what it has written to its standard error."""
        if self.errors is None:
            return ""
        size = self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, size - SHOWN_BYTES))
        return self.errors.read().decode(errors="replace").strip()


def launch(command: Sequence[str], environments: Sequence[Mapping[str, str]], say: Callable[[str], None]) -> int:
    """Run a command as several processes, and wait until all have ended.

    SIGTERM and SIGHUP are passed on to the first process, which tells the others; Ctrl-C reaches all of them by itself.

    Args:
        command: The command.
        environments: What each process finds in its environment besides what this one has.
        say: Is given sentences about processes that have failed.

    Returns:
        The exit status of the first process, or of the one that has failed.
    """
    with ExitStack() as stack:
        processes = [_start(stack, number, command, environment) for number, environment in enumerate(environments)]
        stack.enter_context(_passing_on(processes[0]))
        stack.callback(_end, processes)
        return _watch(processes, say)


def _start(stack: ExitStack, number: int, command: Sequence[str], environment: Mapping[str, str]) -> _Process:
    pulse, theirs = os.pipe()
    stack.callback(os.close, pulse)
    its_start, start = os.pipe()
    opened = stack.enter_context(os.fdopen(start, "wb"))
    errors = None if number == 0 else stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - it does
    output = None if number == 0 else subprocess.DEVNULL
    try:
        popen = subprocess.Popen(  # noqa: S603 - the interpreter that runs this
            list(command),
            env={**os.environ, **environment, DESCRIPTOR: str(theirs), START: str(its_start)},
            pass_fds=(theirs, its_start),
            stdin=None if number == 0 else subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
        )
    finally:
        os.close(theirs)
        os.close(its_start)
    return _Process(number, popen, pulse, opened, errors, heard=time.monotonic())


@contextmanager
def _passing_on(first: _Process) -> Iterator[None]:
    """Pass signals on that reach this process alone, and leave Ctrl-C to those that it reaches as well."""

    def pass_on(number: int, _: Any) -> None:
        if first.popen.poll() is None:
            first.popen.send_signal(number)

    handlers = {signal.SIGTERM: pass_on, signal.SIGHUP: pass_on, signal.SIGINT: lambda *_: None}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(processes: Sequence[_Process], say: Callable[[str], None]) -> int:
    """Wait until all have ended, or one has failed or hangs."""
    with selectors.DefaultSelector() as selector:
        for process in processes:
            selector.register(process.pulse, selectors.EVENT_READ, process)
        while True:
            for key, _ in selector.select(POLL_S):
                process = key.data
                process.hear()
                if process.popen.poll() is not None:
                    selector.unregister(process.pulse)
            if not selector.get_map():
                time.sleep(POLL_S)
            _let_start(processes)
            failed = [process for process in processes if process.popen.poll() not in (None, 0)]
            if failed:
                return _tell_failed(processes, failed[0], say)
            if all(process.popen.poll() == 0 for process in processes):
                return 0
            if (problem := _find_hanging(processes)) is not None:
                say(f"{problem}; all were ended. {GOES_ON}")
                return FAILED


def _let_start(processes: Sequence[_Process]) -> None:
    """Let the processes look for one another once all that have not ended are there."""
    if all(process.is_here or process.popen.poll() is not None for process in processes):
        for process in processes:
            if not process.start.closed:
                process.start.close()
                process.heard = time.monotonic()


def _tell_failed(processes: Sequence[_Process], failed: _Process, say: Callable[[str], None]) -> int:
    first = processes[0]
    if failed is not first:
        with contextlib.suppress(subprocess.TimeoutExpired):
            # It fails with the same, where what is wrong is not one process's alone.
            first.popen.wait(FIRST_FAILS_S)
    if first.popen.returncode not in (None, 0):
        failed = first
    status = failed.popen.returncode
    if failed is first and status > 0:
        # It has said why.
        return status
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"has failed with exit status {status}"
    words = failed.last_words()
    said = f", and said: {words}" if words else ""
    say(f"the process of device {failed.number} {how}{said}; the others were ended, too. {GOES_ON}")
    # As shells say it: 128 and the number of the signal.
    return 128 - status if status < 0 else status


def _find_hanging(processes: Sequence[_Process]) -> str | None:
    """Say which process gives no sign of life, or that all wait for one another; None as long as all is well."""
    for process in processes:
        if (silence_s := process.silence_s) is not None:
            return f"the process of device {process.number} has given no sign of life for {silence_s:.0f} seconds"
    waits_s = min(process.waits_s for process in processes)
    longest = max(process.longest_wait for process in processes)
    if waits_s > (max(STUCK_S, LONGER * longest) if longest else STUCK_AT_FIRST_S):
        return f"all {len(processes)} processes have waited for one another for {waits_s:.0f} seconds"
    return None


def _end(processes: Sequence[_Process]) -> None:
    """End all processes that have not ended."""
    running = [process for process in processes if process.popen.poll() is None]
    for process in running:
        process.popen.terminate()
        # One that was stopped hears no signal but this one.
        process.popen.send_signal(signal.SIGCONT)
    end = time.monotonic() + GRACE_S
    for process in running:
        try:
            process.popen.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.popen.kill()
            process.popen.wait()
