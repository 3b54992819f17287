"""Starts runs, kills them, goes on with them, and compares what they leave."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from .modes import FEATURES, OUTPUT, RECIPE_NAME, Mode, write_rows
from .outcome import contents, describe, differences, list_unloadable

SHIM = Path(__file__).with_name("shim.c")
EARLIER = Path(OUTPUT, "earlier-1")
JOURNAL = Path(OUTPUT, ".setting-aside.json")
PRINTED, CALLS = "printed.txt", "calls.txt"


@attrs.frozen(kw_only=True)
class Kill:
    """A moment at which a run is killed.

    Attributes:
        mode: The kind of run.
        site: The call before which it is killed.
        call: Which call of the site, from 1.
        after_s: Instead: the seconds after which it is killed.
    """

    mode: str
    site: str | None = None
    call: int = 0
    after_s: float | None = None

    @property
    def request(self) -> dict[str, Any]:
        """What a server is asked for."""
        return {"after_s": self.after_s} if self.site is None else {"site": self.site, "call": self.call}

    def __str__(self) -> str:
        """Say when."""
        return (
            f"{self.mode}: after {self.after_s:.3f} s" if self.site is None else f"{self.mode}: {self.site} {self.call}"
        )


@attrs.frozen(kw_only=True)
class Verdict:
    """What came of it.

    Attributes:
        kill: The moment.
        is_killed: Whether the run had not ended before.
        unloadable: What was not whole under its name, after the kill or in the end.
        unequal: In what the resumed run differs from one that was not killed, or what it has ended with.
    """

    kill: Kill
    is_killed: bool
    unloadable: list[str]
    unequal: list[str]


def build_shim(folder: Path) -> Path | None:
    """Compile the library that kills; None where there is no compiler, or no Linux."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        return None
    library = folder / "shim.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", str(SHIM), "-o", str(library), "-ldl"], check=True)
    return library


@attrs.define(eq=False)
class Slot:
    """A folder for one run at a time, and the process that makes them.

    Attributes:
        folder: The folder.
        process: The server.
    """

    folder: Path
    process: "subprocess.Popen[str]"

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path, shim: Path) -> "Iterator[Slot]":
        """Start the server."""
        folder.mkdir(parents=True, exist_ok=True)
        with subprocess.Popen(
            [sys.executable, "-m", "benchmarks.kill.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "LD_PRELOAD": str(shim)},
        ) as process:
            try:
                yield cls(folder, process)
            finally:
                process.kill()

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Let a run be made; give its status and seconds."""
        requests, answers = self.process.stdin, self.process.stdout
        if requests is None or answers is None:
            msg = "the process that makes runs has no pipes"
            raise RuntimeError(msg)
        requests.write(json.dumps(dict(request)) + "\n")
        requests.flush()
        while line := answers.readline():
            answer: dict[str, Any] = json.loads(line)
            if "status" in answer:
                return answer
        msg = f"the process that makes runs has ended ({self.process.wait()})"
        raise RuntimeError(msg)

    def run(self, *arguments: str, **request: Any) -> dict[str, Any]:
        """Make a run in this folder."""
        watched = [str(self.folder.resolve() / name) for name in (OUTPUT, FEATURES)]
        asked = {
            "arguments": [RECIPE_NAME, *arguments],
            "folder": str(self.folder),
            "watched": watched,
            "output": str(self.folder / PRINTED),
        }
        return self.ask({**asked, **request})

    def clear(self, start: Path | None) -> None:
        """Begin with what another folder has, or with nothing."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        if start is not None:
            shutil.copytree(start, self.folder, dirs_exist_ok=True)


@attrs.frozen(kw_only=True)
class Expected:
    """What a run of a mode leaves that nobody kills.

    Attributes:
        mode: The mode.
        start: What is in the folder before it begins.
        files: What is there in the end, by `describe`.
        earlier: The files of the run that was there before.
        sites: How often each call is made.
        seconds: How long it takes.
    """

    mode: Mode
    start: Path
    files: dict[str, Any]
    earlier: dict[str, str]
    sites: Counter[str]
    seconds: float


def expect(slot: Slot, mode: Mode, kept: Path, *, is_checked: bool = True) -> Expected:
    """Make a run that is not killed.

    Args:
        slot: Where.
        mode: The kind of run.
        kept: A folder for what is there before it begins.
        is_checked: Make it twice: what is not the same then says nothing about one that was killed.

    Raises:
        RuntimeError: It fails, or is not the same twice.
    """
    start = kept / mode.name
    slot.clear(None)
    write_rows(slot.folder)
    if mode.before is not None:
        (slot.folder / RECIPE_NAME).write_text(mode.before, encoding="utf-8")
        _succeed(slot, slot.run())
        (slot.folder / PRINTED).unlink()
        shutil.copytree(slot.folder, start)
    mode.prepare(slot.folder)
    earlier = contents(slot.folder / OUTPUT) if mode.before is not None else {}
    files, calls, seconds = _measure(slot)
    # With the model, which only the first run builds.
    left_out = shutil.ignore_patterns(f"{OUTPUT}*", FEATURES, PRINTED, CALLS)
    shutil.copytree(slot.folder, start, ignore=left_out, dirs_exist_ok=True)
    if is_checked:
        slot.clear(start)
        again, calls, seconds = _measure(slot)
        if unequal := differences(again, files):
            msg = f"{mode.name}: two runs that nobody killed differ: {unequal}"
            raise RuntimeError(msg)
    return Expected(mode=mode, start=start, files=files, earlier=earlier, sites=calls, seconds=seconds)


def _measure(slot: Slot) -> tuple[dict[str, Any], Counter[str], float]:
    """Give what a run leaves, the calls that it makes, and its seconds."""
    log = slot.folder / CALLS
    answer = _succeed(slot, slot.run(log=str(log)))
    return describe(slot.folder), Counter(log.read_text(encoding="utf-8").splitlines()), answer["seconds"]


def try_kill(slot: Slot, kill: Kill, expected: Expected) -> Verdict:
    """Kill a run, go on with it as its user would, and compare."""
    slot.clear(expected.start)
    answer = slot.run(**kill.request)
    is_killed = answer["status"] < 0
    unloadable = list_unloadable(slot.folder, expected.files)
    unequal = []
    if is_killed:
        answer = slot.run(*(["--resume"] if _can_go_on(slot.folder, expected) else []))
    if answer["status"]:
        printed = (slot.folder / PRINTED).read_text(encoding="utf-8", errors="replace").splitlines()
        unequal.append(f"ended with {answer['status']}: {' '.join(printed[-3:])}")
    else:
        unequal += differences(describe(slot.folder), expected.files)
        unloadable += list_unloadable(slot.folder, expected.files)
        if expected.mode.before is not None and contents(slot.folder / EARLIER) != expected.earlier:
            unequal.append("the earlier run's files are not what they were")
    return Verdict(kill=kill, is_killed=is_killed, unloadable=unloadable, unequal=unequal)


def _can_go_on(folder: Path, expected: Expected) -> bool:
    """Whether the killed run has saved a state: what is there may still be that of the run before it."""
    if expected.mode.before is not None and (not (folder / EARLIER).is_dir() or (folder / JOURNAL).exists()):
        return False
    return any(not file.name.startswith(".") for file in (folder / OUTPUT / "training").glob("*.safetensors"))


def _succeed(slot: Slot, answer: dict[str, Any]) -> dict[str, Any]:
    if answer["status"]:
        printed = (slot.folder / PRINTED).read_text(encoding="utf-8", errors="replace")
        msg = f"a run that nobody killed has ended with {answer['status']}: {printed[-2000:]}"
        raise RuntimeError(msg)
    return answer
