"""Where MLX keeps the kernels that it compiles, and workers that compile the known ones before a run needs them.

MLX compiles a fused kernel when it first runs, one after another, and keeps it in a temporary folder: the first step
waits a minute for that on two cores of a fresh machine, and two and a half on the host of an H200. Here the folder is
the user's own, and kernels that runs are known to need (`known_kernels.tsv`) are compiled in parallel, while the run
imports mlx-vlm and reads rows.

Both change the process: MLX reads its folder from the environment, and processes that this one starts find their
temporary folder there as well. So nothing happens before `begin` is called: by `fit`, and by the command line
before its slow imports.
"""

import atexit
import contextlib
import functools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx

from ..events import Compiled, Compiling
from ..memory.limits import device_kind, device_memory
from ..system.cache import kernels_root
from ..system.private import make_private
from ..system.safetensors_header import read_header
from .kernel_names import kernel_file
from .soundness import drop_damaged

KNOWN_KERNELS = Path(__file__).with_name("known_kernels.tsv")
"""Made by benchmarks/kernels.py. The first line has the version of MLX; then a line for each kernel: "cpu" or "cuda",
its name, its file's id if the name is too long for a file, its constants as JSON, and the type of the weights that it
is for, if it is for those of one type only: F32, or BF16 for all but F32 and F16; the first needed first."""

MLX_VERSION: str = mx.__version__  # type: ignore[attr-defined]

CUDA_FOLDER = "MLX_PTX_CACHE_DIR"
"""Environment variable from which MLX reads where kernels for a GPU are."""

BUILT_IN = "builtin:"
"""Prefix of the models that vlora makes itself, in float32."""

FULL_TYPES = ("F32", "F16")
"""Types of weights whose runs have no array in bfloat16. Most models are in bfloat16, or quantized from it."""

WORK_PREFIX = ".work-"
MOST_WORKERS = 12
WORKER_BYTES = 4 * 10**9
"""Bytes of GPU memory per worker: each takes half a gigabyte, while the run loads its model."""

LONGEST_WAIT_S = 180.0
VECTORS = {"avx2", "fma", "f16c"}
"""CPU features that MLX compiles for if the CPU has all of them (backend/cpu/jit_compiler.cpp)."""


@attrs.frozen
class Known:
    """A kernel that runs are known to need.

    Attributes:
        kind: "cpu" or "cuda".
        name: MLX's.
        file_id: On a CPU, the hash that replaces the rest of a name too long for a file; else empty.
        constants: As `kernel_names.parse_constant` reads them.
        weights: The type of the weights whose runs need it, as safetensors files name it; empty if all do.
    """

    kind: str
    name: str
    file_id: str
    constants: tuple[str, ...]
    weights: str = ""

    @property
    def line(self) -> str:
        """Its line in a worker's standard input."""
        return json.dumps([self.name, self.file_id, self.constants])


@attrs.define(eq=False)
class Compilation:
    """Kernels being compiled by workers.

    Attributes:
        folder: The folder that keeps them.
        note: Why they are not kept in the cache directory; None if they are.
        missing: Their files, which did not exist.
        workers: Processes that compile them.
        begun_s: When they began, by `time.time`.
        work: The folder in which they work; None without workers.
    """

    folder: Path
    note: str | None = None
    missing: Sequence[Path] = ()
    workers: Sequence[Any] = ()
    begun_s: float = 0.0
    work: Path | None = None

    @property
    def announced(self) -> Compiling | None:
        """The event to emit before the wait; None if no worker is running."""
        return Compiling(n_kernels=len(self.missing), n_workers=len(self.workers)) if self.workers else None

    def wait(self, longest_s: float = LONGEST_WAIT_S) -> Compiled | None:
        """Wait for the workers: a kernel that the run needs meanwhile would be compiled twice.

        Args:
            longest_s: Seconds after their start at which the run stops waiting.

        Returns:
            What has been compiled; None if there were no workers, or on a second call.
        """
        workers, self.workers = self.workers, ()
        if not workers:
            return None
        for worker in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(max(0.0, self.begun_s + longest_s - time.time()))
        if self.work is not None and all(worker.poll() is not None for worker in workers):
            shutil.rmtree(self.work, ignore_errors=True)
        made_s = [(self.folder / file).stat().st_ctime for file in self.missing if (self.folder / file).exists()]
        # They may have finished long before this call.
        seconds = max([0.0, *(made - self.begun_s for made in made_s)])
        return Compiled(n_kernels=len(made_s), seconds=seconds, folder=self.folder)


def begin(model: str = "", lists: Sequence[Path] = (KNOWN_KERNELS,)) -> Compilation:
    """Let MLX keep its kernels in the user's cache directory, and begin to compile the known ones that are not there.

    For the rest of the process: MLX reads `MLX_PTX_CACHE_DIR` once, and on a CPU `TMPDIR` whenever it compiles. What
    Python's `tempfile` gives stays what it was. A second call for weights of the same type does nothing. On a Mac there
    is nothing to do.

    Args:
        model: The recipe's model.path; kernels for weights of another type than its own are left out.
        lists: Files of the form of `KNOWN_KERNELS` that say what is known.

    Returns:
        What is being compiled.
    """
    return _begin_for(weights_type(model), tuple(lists))


@functools.cache
def keep() -> tuple[Path, str | None]:
    """Let MLX keep its kernels where `keep_kernels` says; compile nothing yet."""
    kind = device_kind()
    return (kernels_root(), None) if kind == "metal" else keep_kernels(kind)


@functools.cache
def _begin_for(weights: str, lists: tuple[Path, ...]) -> Compilation:
    kind = device_kind()
    if kind == "metal":
        return Compilation(kernels_root())
    folder, note = keep()
    if note is None and kernels_root() in folder.parents:
        root = kernels_root() / _root_name(kind)
        drop_damaged(folder, root.with_name(f"{root.name}.sums.json"), "*.so" if kind == "cpu" else "**/*.ptx")
    missing = [] if note is not None else list_missing(kind, folder, weights, lists)
    # Names end in a hash of the constants, which depends on the C++ library; the list was made with Linux's.
    if not missing or sys.platform != "linux" or (kind == "cpu" and shutil.which("g++") is None):
        return Compilation(folder, note)
    files = [kernel_file(kind, known.name, known.file_id) for known in missing]
    folder.mkdir(parents=True, exist_ok=True)
    # On the same file system as the kernels, so that whole files are moved and not copied.
    work = Path(tempfile.mkdtemp(prefix=WORK_PREFIX, dir=folder))
    atexit.register(shutil.rmtree, work, ignore_errors=True)
    begun_s = time.time()
    return Compilation(folder, None, files, _start_workers(kind, folder, work, missing), begun_s, work)


def keep_kernels(kind: str) -> tuple[Path, str | None]:
    """Tell MLX where to keep compiled kernels: in a folder that only the user can write, of machines like this one.

    MLX's own folder on a CPU is the same for all users of a machine, and it loads what it finds there.

    Args:
        kind: "cpu" or "cuda".

    Returns:
        The folder in which the kernels' files are, and why they are not kept beyond this process; None if they are.
    """
    # Python remembers its temporary folder before TMPDIR changes.
    tempfile.gettempdir()
    if kind == "cuda" and os.environ.get(CUDA_FOLDER):
        return Path(os.environ[CUDA_FOLDER]), None
    root = kernels_root() / _root_name(kind)
    problem = make_private(root)
    if problem is not None:
        root = Path(tempfile.mkdtemp(prefix="vlora-kernels-"))
        atexit.register(shutil.rmtree, root, ignore_errors=True)
    os.environ["TMPDIR" if kind == "cpu" else CUDA_FOLDER] = str(root)
    note = problem and f"compiled kernels are not kept: {problem}; set XDG_CACHE_HOME to a folder of your own"
    return _own_folder(kind, root), note


def list_missing(kind: str, folder: Path, weights: str = "", lists: Sequence[Path] = (KNOWN_KERNELS,)) -> list[Known]:
    """List the known kernels for a kind of device, and for a type of weights, that are not in a folder."""
    return [
        known
        for file in lists
        for known in read_known(file)
        if known.kind == kind
        and known.weights in ("", weights if weights in FULL_TYPES else "BF16")
        and not (folder / kernel_file(kind, known.name, known.file_id)).exists()
    ]


def weights_type(model: str) -> str:
    """Return the type of a model's weights, as safetensors files name it; empty if no local file says.

    Args:
        model: As in a recipe: a folder, a built-in model, or an id on a hub.
    """
    if model.startswith(BUILT_IN):
        return "F32"
    # Opening the model reports what is wrong with the path or a file. RuntimeError: an unknown user's "~".
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        file = min(Path(model).expanduser().glob("*.safetensors"))
        types = [entry.dtype for entry in read_header(file).values()]
        return max(set(types), key=types.count)
    return ""


def read_known(file: Path = KNOWN_KERNELS) -> Iterator[Known]:
    """Yield the known kernels; none if MLX's major or minor version differs from the recorded one."""
    version, _, lines = file.read_text(encoding="utf-8").partition("\n")
    if version.removeprefix("# ").split(".")[:2] != MLX_VERSION.split(".")[:2]:
        return
    for line in lines.splitlines():
        kind, name, file_id, constants, *weights = line.split("\t")
        yield Known(kind, name, file_id, tuple(json.loads(constants)), *weights)


def _start_workers(kind: str, folder: Path, work: Path, missing: Sequence[Known]) -> list[subprocess.Popen[str]]:
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


def _own_folder(kind: str, root: Path) -> Path:
    """Name the folder of the kernels' files within the folder that MLX is given."""
    return root / "mlx" / MLX_VERSION / "cpu" if kind == "cpu" else root


def _root_name(kind: str) -> str:
    return f"mlx-{MLX_VERSION}-{_machine(kind)}"


def _machine(kind: str) -> str:
    """Name the hardware that kernels are compiled for: MLX would load them on a machine that cannot run them."""
    if kind == "cuda":
        return f"cuda-{mx.device_info(mx.gpu)['architecture']}"
    flags: set[str] = set()
    with contextlib.suppress(OSError):
        found = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("flags")[2]
        flags = set(found.partition("\n")[0].split())
    return f"cpu-{platform.machine()}" + ("-avx2" if flags >= VECTORS else "")


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
