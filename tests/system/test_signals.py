"""Signals that end a run at once, also where the call under way does not return."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vlora.system.signals import GRACE_S, EndedError, stop_on_signals

SCRIPT = """
import hashlib, sys, threading, time
from vlora.system.signals import EndedError, stop_on_signals

has_stepped, seconds = sys.argv[1] == "stepped", float(sys.argv[2])
is_past = threading.Event()

def tell(clock):
    # The main thread has computed for so long only when the call is under way.
    begun = time.clock_gettime(clock)
    while time.clock_gettime(clock) - begun < 0.1 and not is_past.is_set():
        time.sleep(0.01)
    print("ready", flush=True)

try:
    with stop_on_signals(print, lambda: None, lambda number: print("left", number, flush=True)) as signals:
        signals.has_stepped = has_stepped
        threading.Thread(target=tell, args=(time.pthread_getcpuclockid(threading.get_ident()),), daemon=True).start()
        # Lets go of the interpreter, and no signal ends it.
        hashlib.pbkdf2_hmac("sha256", b"", b"", int(seconds * 10**6))
        is_past.set()
        while True:
            time.sleep(0.01)
except EndedError as ended:
    print("ended by", ended, flush=True)
    sys.exit(ended.status)
"""


def await_delivery(process: "subprocess.Popen[str]", number: int) -> None:
    """Wait until a process has taken a signal: a second one of its kind would be lost until then."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.is_file():
        time.sleep(0.5)
        return
    while process.poll() is None:
        waiting = [line.split()[1] for line in status.read_text().splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
        if not any(int(mask, 16) & 1 << number - 1 for mask in waiting):
            return
        time.sleep(0.01)


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="signals and clocks of POSIX")
@pytest.mark.parametrize(
    ("number", "how", "seconds", "n_signals", "printed"),
    [
        (signal.SIGTERM, "new", 100, 1, "left 15"),
        (signal.SIGINT, "stepped", 100, 2, "left 2"),
        (signal.SIGINT, "new", 0.001, 1, "ended by SIGINT"),
    ],
)
def test_a_call_that_does_not_return_keeps_nobody(
    number: int, how: str, seconds: float, n_signals: int, printed: str
) -> None:
    """The first signal before a step, and the second one afterwards, end the process while the call is under way."""
    assert GRACE_S <= 2
    command = [sys.executable, "-c", SCRIPT, how, str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(n_signals):
            process.send_signal(number)
            await_delivery(process, number)
        rest, _ = process.communicate(timeout=600)
    assert process.returncode == 128 + number
    # Behind the call the signal's own error ends the process.
    assert rest.splitlines()[-1] == printed


def watchers() -> list[threading.Thread]:
    """List the threads that wait for signals."""
    return [thread for thread in threading.enumerate() if thread.name == "vlora signals"]


def test_what_is_over_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that has ended in time is left alone, and no thread of it remains; so is one that is to end in order."""
    left: list[int] = []
    # The process would end if this thread stood still for so long.
    monkeypatch.setattr("vlora.system.signals.GRACE_S", 100)
    descriptor = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    with pytest.raises(EndedError), stop_on_signals(lambda _: None, lambda: None, left.append):
        signal.raise_signal(signal.SIGINT)
    assert not watchers()
    # What is to end in order is not ended however little patience there is.
    monkeypatch.setattr("vlora.system.signals.GRACE_S", 0.05)
    with stop_on_signals(lambda _: None, lambda: None, left.append) as signals:
        signals.has_stepped = True
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert signals.is_asked()
    assert not left
    assert not watchers()
    assert signal.set_wakeup_fd(descriptor) == descriptor
