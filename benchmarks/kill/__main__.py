"""Kill runs before every change of their folders and at random moments, resume them, and compare.

    python -m benchmarks.kill
    python -m benchmarks.kill --modes lora,full --random 20 --seed 7 --write kill.json
    python -m benchmarks.kill --modes dpo,kto --sample 40
    python -m benchmarks.kill --devices 2 --random 20
    python -m benchmarks.kill --drawn 40 --seed 7

Each kind of run is made without being killed first, to learn which calls change its folders: every write, fsync,
rename and unlink, by Python or by C++. It is then killed with SIGKILL before the first, the second and the last call of
each of them, and at random moments; gone on with; and what it leaves is compared byte by byte. Linux, with a C
compiler. A line for each failure, a table, and as the last line one JSON object.
"""

import argparse
import contextlib
import json
import queue
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .devices import RECIPES, kill_ranks
from .drawn import kill_drawn
from .modes import MODES
from .runs import Expected, Kill, Slot, Verdict, build_shim, expect, try_kill

N_RANDOM, N_OF_DEVICES = 100, 20

CHANGES = ("write ", "fsync ", "rename ", "unlink ")
"""Calls before which runs are killed; with `--every` also before those that make empty files and folders."""


def main() -> int:
    """Run; 1 if a resumed run was not equal, or something could not be loaded."""
    options = _options()
    if options.drawn:
        return _kill_drawn(options)
    if options.devices > 1:
        return _kill_devices(options)
    names = options.modes.split(",") if options.modes else list(MODES)
    if unknown := [name for name in names if name not in MODES]:
        sys.exit(f"--modes: {unknown[0]!r} is none of {', '.join(MODES)}")
    with tempfile.TemporaryDirectory(prefix="vlora-kill-") as made, contextlib.ExitStack() as stack:
        root = Path(options.folder or made).resolve()
        root.mkdir(parents=True, exist_ok=True)
        shim = build_shim(root)
        if shim is None:
            sys.exit("this benchmark needs Linux and a C compiler (gcc)")
        slots = [stack.enter_context(Slot.open(root / f"slot-{n}", shim)) for n in range(options.workers)]
        expected = {name: expect(slots[0], MODES[name], root / "expected") for name in names}
        n_random = N_RANDOM if options.random is None else options.random
        kills = plan_kills(expected, n_random, options.seed, is_whole=options.every, most=options.sample)
        _say(f"{len(kills)} kills of {', '.join(names)}; a run takes {_seconds(expected)}")
        began = time.perf_counter()
        verdicts = try_all(slots, kills, expected)
        outcome = summarize(verdicts, expected, time.perf_counter() - began, options.seed)
    _show(outcome)
    text = json.dumps(outcome)
    if options.write:
        Path(options.write).write_text(text + "\n", encoding="utf-8")
    _say(text)
    return int(any(part["unequal"] or part["unloadable"] for part in outcome["modes"].values()))


def _kill_drawn(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="vlora-kill-") as made:
        root = Path(options.folder or made).resolve()
        outcome = kill_drawn(root, options.drawn, options.seed, _say, max(2, options.devices))
    _say(json.dumps(outcome))
    return int(bool(outcome["wrong"]))


def _kill_devices(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="vlora-kill-") as made:
        root = Path(options.folder or made).resolve()
        root.mkdir(parents=True, exist_ok=True)
        names = options.modes.split(",") if options.modes else list(RECIPES)
        if unknown := [name for name in names if name not in RECIPES]:
            sys.exit(f"--modes: {unknown[0]!r} is none of {', '.join(RECIPES)}, which run on several devices")
        outcome = kill_ranks(root, names, options.devices, options.random or N_OF_DEVICES, options.seed, _say)
    text = json.dumps(outcome)
    if options.write:
        Path(options.write).write_text(text + "\n", encoding="utf-8")
    _say(text)
    return int(outcome["fine"] < outcome["runs"])


def plan_kills(
    expected: dict[str, Expected], n_random: int, seed: int, *, is_whole: bool = False, most: int | None = None
) -> list[Kill]:
    """List the moments: each call at its first, second and last time, and random ones, spread over the modes.

    Args:
        expected: What the runs of each mode leave that nobody kills.
        n_random: How many random ones.
        seed: Fixes these, and which are drawn.
        is_whole: Take calls, too, that make empty files and folders.
        most: Draw so many of all of them.
    """
    kills = [
        Kill(mode=name, site=site, call=call)
        for name, one in expected.items()
        for site, count in one.sites.items()
        if is_whole or site.startswith(CHANGES)
        for call in sorted({1, min(2, count), count})
    ]
    draw = random.Random(seed)  # noqa: S311 - no secrets
    names = list(expected)
    for number in range(n_random):
        name = names[number % len(names)]
        kills.append(Kill(mode=name, after_s=draw.uniform(0, expected[name].seconds)))
    return kills if most is None else draw.sample(kills, min(most, len(kills)))


def try_all(slots: Sequence[Slot], kills: Sequence[Kill], expected: dict[str, Expected]) -> list[Verdict]:
    """Try all of them, as many at a time as there are slots."""
    waiting: queue.SimpleQueue[Kill] = queue.SimpleQueue()
    for kill in kills:
        waiting.put(kill)
    verdicts: list[Verdict] = []
    failures: list[BaseException] = []

    def work(slot: Slot) -> None:
        while not failures:
            try:
                kill = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                verdict = try_kill(slot, kill, expected[kill.mode])
            except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that waits
                failures.append(error)
                return
            verdicts.append(verdict)
            for line in (*verdict.unequal, *verdict.unloadable):
                _say(f"{kill}: {line}")

    threads = [threading.Thread(target=work, args=(slot,)) for slot in slots]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return verdicts


def summarize(verdicts: Sequence[Verdict], expected: dict[str, Expected], seconds: float, seed: int) -> dict[str, Any]:
    """Count, mode by mode."""
    modes = {}
    for name, one in expected.items():
        own = [verdict for verdict in verdicts if verdict.kill.mode == name]
        modes[name] = {
            "sites": len(one.sites),
            "at_sites": sum(verdict.kill.site is not None for verdict in own),
            "at_random": sum(verdict.kill.site is None for verdict in own),
            "killed": sum(verdict.is_killed for verdict in own),
            "equal": sum(not verdict.unequal for verdict in own),
            "unequal": sum(bool(verdict.unequal) for verdict in own),
            "unloadable": sum(bool(verdict.unloadable) for verdict in own),
        }
    return {"seed": seed, "seconds": round(seconds), "modes": modes}


def _show(outcome: dict[str, Any]) -> None:
    columns = list(next(iter(outcome["modes"].values())))
    _say(" | ".join(["mode", *columns]))
    for name, part in outcome["modes"].items():
        _say(" | ".join([name, *(str(part[column]) for column in columns)]))


def _seconds(expected: dict[str, Expected]) -> str:
    return ", ".join(f"{one.seconds:.1f} s ({name})" for name, one in expected.items())


def _say(line: str) -> None:
    print(line, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--modes", help=f"some of {','.join(MODES)}; of several devices some of {','.join(RECIPES)}; all by default"
    )
    parser.add_argument(
        "--random", type=int, help=f"kills at random moments; {N_RANDOM}, of several devices {N_OF_DEVICES} by default"
    )
    parser.add_argument("--sample", type=int, help="so many of all the moments, drawn with the seed")
    parser.add_argument("--drawn", type=int, help="kill runs of so many recipes drawn at random instead")
    parser.add_argument("--devices", type=int, default=1, help="kill one process of runs on so many devices instead")
    parser.add_argument("--every", action="store_true", help="kill before open, mkdir, link and truncate, too")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time")
    parser.add_argument("--folder", help="keep the folders of the runs there")
    parser.add_argument("--write", help="a file for the JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
