"""Starts the workers that compile kernels; `worker.py` is their program."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..memory.limits import device_memory
from .kernel_folder import CUDA_FOLDER
from .kernel_list import Known

WORK_PREFIX = ".work-"
MOST_WORKERS = 12
WORKER_BYTES = 4 * 10**9
"""Bytes of GPU memory per worker: each takes half a gigabyte, while the run loads its model."""


def start_workers(kind: str, folder: Path, work: Path, missing: Sequence[Known]) -> list[subprocess.Popen[str]]:
    """Start workers that divide the missing kernels among themselves.

    Args:
        kind: "cpu" or "cuda".
        folder: The folder for finished kernels.
        work: An empty working folder on the same file system.
        missing: The kernels; at least one.
    """
    (work / "claims").mkdir()
    lines = "\n".join(known.line for known in missing)
    workers = []
    n_workers = min(_n_cores(), MOST_WORKERS, len(missing))
    if kind == "cuda":
        n_workers = min(n_workers, max(1, device_memory() // WORKER_BYTES))
    # On a CPU one compiler run takes many kernels; most of its work is headers.
    n_together = -(-len(missing) // n_workers) if kind == "cpu" else 1
    for number in range(n_workers):
        root = work / str(number)
        root.mkdir()
        environment = {**os.environ, "TMPDIR" if kind == "cpu" else CUDA_FOLDER: str(root)}
        program = Path(__file__).with_name("__main__.py")
        # -P: files in the worker's folder must not shadow other packages.
        command = [sys.executable, "-P", program, kind, root, folder, work / "claims", n_together]
        # A session of its own, so that Ctrl-C reaches only the run; workers end after it.
        worker = subprocess.Popen(  # noqa: S603 - this very Python
            [str(part) for part in command],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        if worker.stdin is not None:
            with worker.stdin:
                worker.stdin.write(lines)
        workers.append(worker)
    return workers


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
