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
try:
    with stop_on_signals(print, lambda: None, lambda number: print("left", number, flush=True)) as signals:
        signals.has_stepped = has_stepped
        # When the call is under way.
        threading.Timer(0.2, print, ["ready"], {"flush": True}).start()
        # Lets go of the interpreter, and no signal ends it.
        hashlib.pbkdf2_hmac("sha256", b"", b"", int(seconds * 10**6))
        while True:
            time.sleep(0.01)
except EndedError as ended:
    print("ended by", ended, flush=True)
    sys.exit(ended.status)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
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
    """The first signal before a step, and the second one afterwards, end the process within two seconds."""
    command = [sys.executable, "-c", SCRIPT, how, str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(n_signals):
            process.send_signal(number)
            time.sleep(0.1)
        began = time.perf_counter()
        rest, _ = process.communicate(timeout=60)
        took = time.perf_counter() - began
    assert process.returncode == 128 + number
    assert printed in rest
    # As long again for a machine that is busy.
    assert took < 2 * (GRACE_S + 0.5)


def test_what_is_over_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that has ended in time is left alone, and no thread of it remains; so is one that is to end in order."""
    monkeypatch.setattr("vlora.system.signals.GRACE_S", 0.05)
    left: list[int] = []
    before = threading.active_count()
    descriptor = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    with pytest.raises(EndedError), stop_on_signals(lambda _: None, lambda: None, left.append):
        signal.raise_signal(signal.SIGINT)
    with stop_on_signals(lambda _: None, lambda: None, left.append) as signals:
        signals.has_stepped = True
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert signals.is_asked()
    assert not left
    assert threading.active_count() == before
    assert signal.set_wakeup_fd(descriptor) == descriptor
