"""Runs on several devices of which one process is killed: all end, and the run goes on to the same bits.

    python -m benchmarks.kill --devices 2 --random 20 --seed 7

A process for each device trains an adapter of the built-in model on pictures of noise; on a CPU MLX's ring connects
them. One of them, drawn at random, is killed with SIGKILL at a random moment: so many lines of the run's output, and a
part of a second more, both drawn. All have to be gone within 60 seconds, and the run, gone on with, has to leave the
weights of the run that was not killed, byte by byte. Kinds of runs take turns: rows in a file, and streams. Linux.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from .modes import PAIRS_NAME, PARTS, ROWS_NAME, STREAMED_MIXTURE, write_rows

LAST_LINES, POLL_S = 5, 0.05

MOST_S = 60.0
"""Within which all processes have to have ended."""

COMMON = """
[model]
path = "builtin:tiny-qwen3-vl"
[lora]
rank = 2
dropout = {dropout}
[train]
batch_size = 2
iters = {iters}
steps_per_report = 1
steps_per_save = 2
{train}
[features]
cache = {cache}
[output]
report = false
path = "adapters.safetensors"
[data]
train_on_completions = true
{data}
"""

STREAMED = f'path = "{PARTS.format("*")}"\nstreaming = true\nshuffle_buffer = 5'


def _write(data: str, train: str = "", *, iters: int = 6, keeps_features: bool = False, dropout: float = 0.1) -> str:
    return COMMON.format(data=data, train=train, iters=iters, cache=str(keeps_features).lower(), dropout=dropout)


def _compare(objective: str, more: str = "") -> str:
    """Write a recipe that learns from pairs; what is compared with a reference has no dropout."""
    train = f'objective = "{objective}"'
    return _write(f'path = "{PAIRS_NAME}"\n{more}', train, iters=9, keeps_features=True, dropout=0.0)


def _pack(length: int) -> str:
    return f'batching = "packed"\npack_length = {length}'


ROWS = f'path = "{ROWS_NAME}"'

RECIPES = {
    "lora": _write(ROWS),
    # Three epochs: rows come to other devices than in the first one, and those take what was computed there.
    "features": _write(ROWS, iters=9, keeps_features=True),
    "features-packed": _write(f"max_seq_length = 48\n{ROWS}", _pack(48), iters=9, keeps_features=True),
    "dpo": _compare("dpo"),
    "dpo-kept": _compare("dpo", "[preference]\nprecompute = true"),
    "kto": _compare("kto"),
    "streamed": _write(STREAMED),
    "streamed-grouped": _write(STREAMED, 'batching = "grouped"'),
    "streamed-packed": _write(f"max_seq_length = 128\n{STREAMED}", _pack(128)),
    "streamed-mixture": _write(STREAMED_MIXTURE),
}
"""Recipes of the kinds of runs, by their names."""


@attrs.frozen(kw_only=True)
class Killed:
    """What became of a run of which one process was killed.

    Attributes:
        mode: The kind of run.
        rank: Which one.
        after: When: behind so many lines of its output, and so many seconds more.
        is_killed: Whether it was still running then.
        ended_s: How long it took until all had ended.
        status: The run's exit status.
        is_gone: Whether none of its processes was left.
        resumed: The exit status of the run that went on.
        is_equal: Whether that left what the run that was not killed has left.
    """

    mode: str
    rank: int
    after: tuple[int, float]
    is_killed: bool
    ended_s: float
    status: int
    is_gone: bool
    resumed: int
    is_equal: bool

    @property
    def is_fine(self) -> bool:
        """Whether all is as it has to be."""
        ended = self.ended_s <= MOST_S and self.is_gone and (not self.is_killed or self.status != 0)
        return ended and self.resumed == 0 and self.is_equal


@attrs.frozen(kw_only=True)
class _Whole:
    """The run of a kind that nobody kills: its name, its folder, and how many lines it prints."""

    mode: str
    folder: Path
    n_lines: int


def kill_ranks(
    root: Path, modes: Sequence[str], n_devices: int, n_kills: int, seed: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Kill one process of each of several runs.

    Args:
        root: A folder for the runs.
        modes: Kinds of runs, names of `RECIPES`, which take turns.
        n_devices: Processes of a run.
        n_kills: How many runs.
        seed: Fixes which process is killed, and when.
        say: Is given a line for each.

    Returns:
        Counts, and the longest time until all had ended.
    """
    write_rows(root)
    began = time.perf_counter()
    wholes = [_make_whole(root, mode, n_devices, say) for mode in modes[:n_kills]]
    draw = random.Random(seed)  # noqa: S311 - no secrets
    found = []
    for number in range(n_kills):
        whole = wholes[number % len(wholes)]
        # Its last lines come when all is over.
        after = draw.randrange(whole.n_lines - LAST_LINES), round(draw.uniform(0, 1), 2)
        killed = _kill(root / f"killed-{number}", n_devices, draw.randrange(n_devices), after, whole)
        found.append(killed)
        say(f"{number + 1}: {'fine' if killed.is_fine else 'WRONG'} {json.dumps(attrs.asdict(killed))}")
    return {
        "devices": n_devices,
        "seed": seed,
        "seconds": round(time.perf_counter() - began),
        "runs": len(found),
        "killed": sum(one.is_killed for one in found),
        "ended_within_60_s": sum(one.ended_s <= MOST_S and one.is_gone for one in found),
        "longest_s": round(max((one.ended_s for one in found), default=0.0), 1),
        "equal": sum(one.resumed == 0 and one.is_equal for one in found),
        "fine": sum(one.is_fine for one in found),
        "modes": {
            mode: f"{sum(one.is_fine for one in found if one.mode == mode)} of "
            f"{sum(one.mode == mode for one in found)} fine"
            for mode in modes
        },
    }


def _make_whole(root: Path, mode: str, n_devices: int, say: Callable[[str], None]) -> _Whole:
    """Make the run of a kind that nobody kills."""
    folder = root / f"whole-{mode}"
    (root / f"{mode}.toml").write_text(RECIPES[mode], encoding="utf-8")
    began = time.perf_counter()
    if status := _start(mode, folder, n_devices).wait():
        sys.exit(f"{mode}: the run that nobody kills ended with status {status}; {folder}.log has what it said")
    n_lines = _count_lines(folder)
    say(f"{mode}: a run takes {time.perf_counter() - began:.1f} s and prints {n_lines} lines")
    return _Whole(mode=mode, folder=folder, n_lines=n_lines)


def _kill(output: Path, n_devices: int, rank: int, after: tuple[int, float], whole: _Whole) -> Killed:
    run = _start(whole.mode, output, n_devices)
    ranks: dict[int, int] = {}
    while (len(ranks) < n_devices or _count_lines(output) < after[0]) and run.poll() is None:
        time.sleep(POLL_S)
        ranks |= dict(_find_ranks(run.pid))
    time.sleep(after[1])
    is_killed = run.poll() is None and _is_running(ranks[rank])
    if is_killed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(ranks[rank], signal.SIGKILL)
    began = time.monotonic()
    status = run.wait()
    ended_s = time.monotonic() - began
    is_gone = not any(Path(f"/proc/{process}").exists() for process in ranks.values())
    resumed = _start(whole.mode, output, n_devices, "--resume-or-start").wait()
    return Killed(
        mode=whole.mode,
        rank=rank,
        after=after,
        is_killed=is_killed,
        ended_s=round(ended_s, 1),
        status=status,
        is_gone=is_gone,
        resumed=resumed,
        is_equal=resumed == 0 and read_result(output) == read_result(whole.folder),
    )


def _start(mode: str, output: Path, n_devices: int, *options: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "vlora", f"{mode}.toml", "--devices", str(n_devices), *options]
    output.mkdir(exist_ok=True)
    with (output.parent / f"{output.name}.log").open("ab") as log:
        return subprocess.Popen(
            [
                *(*command, "--set", f"output.path={output / 'adapters.safetensors'}"),
                *("--set", f"features.path={output}.features"),
            ],
            cwd=output.parent,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )


def _is_running(process: int) -> bool:
    """Whether a process has not ended by itself."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def _count_lines(output: Path) -> int:
    """Count what a run has printed."""
    return len((output.parent / f"{output.name}.log").read_bytes().splitlines())


def _find_ranks(process: int) -> Iterator[tuple[int, int]]:
    """Find the processes of a run: (rank, number of the process)."""
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
            variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            for name, _, value in (variable.partition(b"=") for variable in variables):
                if name == b"MLX_RANK":
                    yield int(value), int(child)


def read_result(output: Path) -> tuple[bytes, Sequence[tuple[int, float]]]:
    """Read what has to be equal: the adapter's bytes, and each step's loss."""
    lines = map(json.loads, (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    return (output / "adapters.safetensors").read_bytes(), losses
