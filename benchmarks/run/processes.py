"""Processes started as users start them, and what they cost."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs

ROOT = Path(__file__).resolve().parents[2]
MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
"""What the system counts a process's memory in."""

TAIL_LINES = 6
WATCH_S = 1.0
KERNELS_VARIABLE = "MLX_PTX_CACHE_DIR"
"""Where it is set, MLX keeps its CUDA kernels there; otherwise where its users have them."""


class ProgramError(RuntimeError):
    """A process failed, or did not end in time."""


@attrs.frozen(kw_only=True)
class Ended:
    """A process that has ended well.

    Attributes:
        spawned: When it was started, in seconds of Unix time.
        total_s: Until its end.
        peak_host: Most memory that it, or one of the processes that it waited for, had, in bytes; on Linux not less
            than this process had when it started it.
        lines: (seconds of Unix time, text) of every line on its standard output, as it came.
    """

    spawned: float
    total_s: float
    peak_host: int
    lines: tuple[tuple[float, str], ...]


def run(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    limit_s: float,
    watch: Callable[[], None] = lambda: None,
) -> Ended:
    """Run a command to its end; what it prints is kept in its folder.

    Args:
        command: As it is typed.
        folder: Where stdout.txt and stderr.txt go.
        environment: Of the process.
        limit_s: Seconds after which it is ended, with all that it started.
        watch: Called every second; a `RuntimeError` that it raises ends the process, and is raised here.

    Raises:
        ProgramError: It failed, or took too long.
    """
    lines: list[tuple[float, str]] = []
    has_ended = threading.Event()
    stopped: list[RuntimeError] = []
    with (folder / "stderr.txt").open("wb") as errors, (folder / "stdout.txt").open("w", encoding="utf-8") as output:
        spawned = time.time()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=dict(environment),
            text=True,
            errors="replace",
            start_new_session=True,
        )

        def guard() -> None:
            try:
                while not has_ended.wait(WATCH_S):
                    watch()
                    if time.time() > spawned + limit_s:
                        msg = f"did not end within {limit_s:g} s (--limit)"
                        raise ProgramError(msg)
            except RuntimeError as error:
                stopped.append(error)
                _kill(process)

        guarding = threading.Thread(target=guard, daemon=True)
        guarding.start()
        try:
            for line in process.stdout or ():
                lines.append((time.time(), line.rstrip("\n")))
                output.write(line)
            # Not `process.wait`: only this says what this one process has used.
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            _kill(process)
            process.wait()
            raise
        finally:
            has_ended.set()
            guarding.join()
            if process.stdout is not None:
                process.stdout.close()
        process.returncode = os.waitstatus_to_exitcode(status)
        total_s = time.time() - spawned
    if stopped:
        raise stopped[0]
    if process.returncode:
        said = [*(folder / "stderr.txt").read_text(encoding="utf-8", errors="replace").splitlines()]
        said = said or [text for _, text in lines]
        msg = f"ended with {process.returncode}: {' / '.join(line.strip() for line in said[-TAIL_LINES:])}"
        raise ProgramError(msg)
    peak_host = usage.ru_maxrss * MAXRSS_BYTES
    return Ended(spawned=spawned, total_s=total_s, peak_host=peak_host, lines=tuple(lines))


def _kill(process: "subprocess.Popen[str]") -> None:
    """Kill a process and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def make_environment(caches: Path | None, private: Path) -> dict[str, str]:
    """Make the environment of a program's process.

    Args:
        caches: Where programs keep what they compile: the user's cache directory, the folder for temporary files, the
            driver's cache and Triton's. Empty for a cold start. None for those of whoever runs the benchmark.
        private: The run's own: the data sets' cache, so that no run finds its rows prepared.
    """
    search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # No network: what there is comes from local folders, and nobody waits for a hub.
    own = {"PYTHONPATH": search, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(private / "hub")}
    if caches is None:
        return {**os.environ, **own}
    inherited = {name: value for name, value in os.environ.items() if name != KERNELS_VARIABLE}
    places = {
        "XDG_CACHE_HOME": "user",
        "TMPDIR": "tmp",
        "CUDA_CACHE_PATH": "cuda",
        "TRITON_CACHE_DIR": "triton",
        "TORCHINDUCTOR_CACHE_DIR": "inductor",
    }
    for place in places.values():
        (caches / place).mkdir(parents=True, exist_ok=True)
    return {**inherited, **own, **{name: str(caches / place) for name, place in places.items()}}
