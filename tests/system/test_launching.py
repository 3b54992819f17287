"""Several processes are started, watched, and ended together."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from vlora.system import launching
from vlora.system.heartbeat import DESCRIPTOR

BEAT = f"import os, time, sys, signal; fd = int(os.environ['{DESCRIPTOR}']); rank = int(os.environ['RANK']); "


def launch(script: str, n: int = 3) -> tuple[int, list[str]]:
    """Run a script as several processes; give the status and what was said."""
    said: list[str] = []
    environments = [{"RANK": str(rank)} for rank in range(n)]
    return launching.launch([sys.executable, "-S", "-c", BEAT + script], environments, said.append), said


def test_all_succeed() -> None:
    """Processes that end one after the other without a failure."""
    assert launch("time.sleep(0.1 * rank)") == (0, [])


def test_failure_of_another_one_ends_all() -> None:
    """What another process than the first fails with is told, and nobody is waited for."""
    began = time.monotonic()
    status, said = launch("sys.exit('row 7 is bad') if rank == 1 else time.sleep(60)")

    assert (status, len(said)) == (1, 1)
    assert "device 1 has failed with exit status 1, and said: row 7 is bad" in said[0]
    assert time.monotonic() - began < 40


def test_the_first_tells_itself() -> None:
    """Where the first one fails, too, it has said why on the terminal."""
    assert launch("time.sleep(0.5 * (rank == 0)); sys.exit(2)") == (2, [])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_one_ends_all(rank: int) -> None:
    """A signal that ends one process."""
    status, said = launch(f"os.kill(os.getpid(), 9) if rank == {rank} else time.sleep(60)")

    assert status == 128 + signal.SIGKILL
    assert f"device {rank} was ended by SIGKILL" in said[0]


def test_a_silent_one_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that gives no sign of life any more; the others do."""
    monkeypatch.setattr(launching, "SILENT_S", 1.0)
    status, said = launch(
        "[(os.write(fd, b'.'), time.sleep(0.1)) for n in range(1 if rank == 1 else 600)]; time.sleep(60)"
    )

    assert status == launching.FAILED
    assert "device 1 has given no sign of life" in said[0]


def test_all_wait_for_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """All have waited before, for a shorter time; one that waits alone does no harm."""
    monkeypatch.setattr(launching, "STUCK_S", 1.5)
    beats = "[(os.write(fd, b'w' if n % 20 > 17 or n > 40 - 5 * rank else b'.'), time.sleep(0.1)) for n in range(600)]"
    status, said = launch(beats)

    assert status == launching.FAILED
    assert "all 3 processes have waited for one another" in said[0]


def test_sigterm_reaches_the_first(tmp_path: Path) -> None:
    """The first process is told, and what it ends with is what all end with."""
    heard = tmp_path / "heard"
    script = (
        f"signal.signal(signal.SIGTERM, lambda *_: (open({str(heard)!r}, 'w').write(str(rank)), os._exit(0))); "
        "[time.sleep(0.05) for n in range(1200)] if rank == 0 else None"
    )
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGTERM)).start()

    assert launch(script, 2) == (0, [])
    assert heard.read_text() == "0"
