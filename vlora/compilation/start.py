"""Workers that compile kernels, started: `worker.py` is what each of them does."""

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
    """Start workers that share out the kernels that are missing.

    Args:
        kind: "cpu" or "cuda".
        folder: Into which finished kernels go.
        work: An empty folder, on the same file system, in which they work.
        missing: The kernels; not none.
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
        # A session of its own: Ctrl-C reaches the run only, and workers end after it.
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
