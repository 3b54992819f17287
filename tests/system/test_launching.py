"""Several processes are started, watched, and ended together."""

import math
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vlora.system import launching
from vlora.system.heartbeat import DESCRIPTOR, IS_HERE, START

BEAT = (
    f"import itertools, os, time, sys, signal; fd = int(os.environ['{DESCRIPTOR}']); rank = int(os.environ['RANK']); "
)


def launch(script: str, n: int = 3) -> tuple[int, list[str]]:
    """Run a script as several processes; give the status and what was said."""
    said: list[str] = []
    environments = [{"RANK": str(rank)} for rank in range(n)]
    return launching.launch([sys.executable, "-S", "-c", BEAT + script], environments, said.append), said


def test_all_succeed() -> None:
    """Processes that end one after the other without a failure."""
    assert launch("time.sleep(0.1 * rank)") == (0, [])


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the first process to fail as well; it is not going to."""
    monkeypatch.setattr(launching, "FIRST_FAILS_S", 0.1)


@pytest.mark.usefixtures("hasty")
def test_failure_of_another_one_ends_all() -> None:
    """What another process than the first fails with is told, and nobody is waited for."""
    began = time.monotonic()
    status, said = launch("sys.exit('row 7 is bad') if rank == 1 else time.sleep(600)")

    assert (status, len(said)) == (1, 1)
    assert "device 1 has failed with exit status 1, and said: row 7 is bad" in said[0]
    assert time.monotonic() - began < 300


def test_the_first_tells_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first one fails, too, it has said why on the terminal."""
    monkeypatch.setattr(launching, "FIRST_FAILS_S", 100.0)

    assert launch("time.sleep(0.5 * (rank == 0)); sys.exit(2)") == (2, [])


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_one_ends_all(rank: int) -> None:
    """A signal that ends one process."""
    status, said = launch(f"os.kill(os.getpid(), 9) if rank == {rank} else time.sleep(60)")

    assert status == 128 + signal.SIGKILL
    assert f"device {rank} was ended by SIGKILL" in said[0]


COME = f"os.write(fd, {IS_HERE!r}); os.read(int(os.environ['{START}']), 1); "


def test_a_late_one_is_waited_for(tmp_path: Path) -> None:
    """No process goes on before the last one is there, which comes long after the others wait for it."""
    script = (
        f"here = lambda name: os.path.exists(os.path.join({str(tmp_path)!r}, name)); "
        f"make = lambda name: open(os.path.join({str(tmp_path)!r}, name), 'w').close(); "
        "make(f'waits{rank}'); "
        "[time.sleep(0.01) for _ in iter(lambda: rank == 0 and not (here('waits1') and here('waits2')), False)]; "
        "time.sleep(0.5 * (rank == 0)); "
        "sys.exit('did not wait') if here('goes1') or here('goes2') else None; "
        f"{COME} make(f'goes{{rank}}')"
    )

    assert launch(script) == (0, [])
    assert {file.name for file in tmp_path.glob("goes*")} == {"goes0", "goes1", "goes2"}


@pytest.mark.usefixtures("hasty")
def test_one_that_fails_before_it_comes() -> None:
    """Those that wait for it are ended, with what it failed with."""
    status, said = launch(f"sys.exit('no model') if rank == 1 else None; {COME} time.sleep(600)")

    assert status == 1
    assert "device 1 has failed with exit status 1, and said: no model" in said[0]


def test_one_that_ends_before_it_comes() -> None:
    """One that has nothing to do keeps the others not from going on."""
    assert launch(f"sys.exit(0) if rank == 1 else None; {COME}") == (0, [])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let time pass by the first process's signs of life, a tenth of a second each: a slow machine changes nothing."""
    now, hear = [0.0], launching._Process.hear

    def tick(process: launching._Process) -> None:
        now[0] += 0.1 * (process.number == 0)
        hear(process)

    monkeypatch.setattr(launching._Process, "hear", tick)
    monkeypatch.setattr(launching, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep))


@pytest.mark.usefixtures("clock")
def test_a_silent_one_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that gives no sign of life any more; the others do."""
    monkeypatch.setattr(launching, "SILENT_S", 1.0)
    beats = "[(os.write(fd, b'.'), time.sleep(0.01)) for n in (itertools.count() if rank == 0 else '.')]"
    status, said = launch(f"{beats}; time.sleep(600)", 2)

    assert status == launching.FAILED
    assert "device 1 has given no sign of life" in said[0]


@pytest.mark.usefixtures("clock")
def test_one_that_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has as long as `STARTS_S` from its start; one that waits for it is not taken for it."""
    monkeypatch.setattr(launching, "SILENT_S", 1.0)
    monkeypatch.setattr(launching, "STARTS_S", 5.0)
    come = f"[(os.write(fd, {IS_HERE!r}), time.sleep(0.01)) for n in itertools.count()]"
    status, said = launch(f"time.sleep(600 * rank); {come}", 2)

    assert status == launching.FAILED
    assert "device 1 has given no sign of life for 5 seconds" in said[0]


@pytest.mark.usefixtures("clock")
def test_all_wait_for_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """All have waited before, for a shorter time; one that waits alone does no harm."""
    monkeypatch.setattr(launching, "STUCK_S", 1.5)
    monkeypatch.setattr(launching, "SILENT_S", math.inf)
    wait = "b'w' if n % 20 > 17 or n > 40 - 5 * rank else b'.'"
    beats = f"[(os.write(fd, {wait}), time.sleep(0.01)) for n in itertools.count()]"
    status, said = launch(beats)

    assert status == launching.FAILED
    assert "all 3 processes have waited for one another" in said[0]


def test_sigterm_reaches_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process is told, and what it ends with is what all end with."""
    heard, ready = tmp_path / "heard", tmp_path / "ready"
    script = (
        f"signal.signal(signal.SIGTERM, lambda *_: (open({str(heard)!r}, 'w').write(str(rank)), os._exit(0))); "
        f"[(open({str(ready)!r}, 'w'), time.sleep(0.05)) for n in itertools.count()] if rank == 0 else None"
    )
    watch = launching._watch

    def tell(*given: Any) -> int:
        # By now the processes are there and signals are passed on; another thread sends one when the first listens.
        sender.start()
        return watch(*given)

    def send() -> None:
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    monkeypatch.setattr(launching, "_watch", tell)

    assert launch(script, 2) == (0, [])
    assert heard.read_text() == "0"
