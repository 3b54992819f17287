"""Keeps MLX's compiled kernels in the user's cache, and starts workers that compile known ones in advance.

MLX compiles a fused kernel when it first runs, one after another, and keeps it in a temporary folder: the first step
waits a minute for that on two cores of a fresh machine, and two and a half on the host of an H200. Here the folder is
the user's own, and kernels that runs are known to need (`kernel_list.lists_for`) are compiled in parallel, while the
run imports mlx-vlm and reads rows.

Both change the process: MLX reads its folder from the environment, and processes that this one starts find their
temporary folder there as well. So nothing happens before `begin` is called: by `fit`, and by the command line
before its slow imports.
"""

import atexit
import contextlib
import functools
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from ..events import Compiled, Compiling
from ..memory.limits import device_kind
from ..recipe.schema import Recipe
from ..system.cache import kernels_root
from ..system.safetensors_header import read_header
from .kernel_folder import keep_kernels, root_name
from .kernel_list import KNOWN_KERNELS, list_missing, lists_for
from .kernel_names import kernel_file
from .soundness import drop_damaged
from .start import WORK_PREFIX, start_workers

BUILT_IN = "builtin:"
"""Prefix of the models that vlora makes itself, in float32."""

LONGEST_WAIT_S = 180.0


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
        # The workers may have finished long before this call.
        seconds = max([0.0, *(made - self.begun_s for made in made_s)])
        return Compiled(n_kernels=len(made_s), seconds=seconds, folder=self.folder)


def begin(model: str = "", lists: Sequence[Path] = (KNOWN_KERNELS,)) -> Compilation:
    """Let MLX keep its kernels in the user's cache directory, and begin to compile the known ones that are not there.

    For the rest of the process: MLX reads `MLX_PTX_CACHE_DIR` once, and on a CPU `TMPDIR` whenever it compiles. What
    Python's `tempfile` gives does not change. A second call for weights of the same type and the same
    lists does nothing. On a Mac there is nothing to do.

    Args:
        model: The recipe's model.path; kernels for weights of another type than its own are left out.
        lists: Files of the form of `KNOWN_KERNELS` that say what is known.

    Returns:
        What is being compiled.
    """
    return _begin_for(weights_type(model), tuple(lists))


def begin_for(recipe: Recipe) -> Compilation:
    """Do what `begin` does, for what a recipe's run is known to need."""
    return begin(recipe.model.path, lists_for(recipe.train.objective))


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
        root = kernels_root() / root_name(kind)
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
    return Compilation(folder, None, files, start_workers(kind, folder, work, missing), begun_s, work)


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
