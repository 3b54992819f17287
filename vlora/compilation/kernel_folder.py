"""The folder in which MLX keeps compiled kernels: the user's own, of one version of MLX and one kind of machine."""

import atexit
import contextlib
import os
import platform
import shutil
import tempfile
from pathlib import Path

import mlx.core as mx

from ..system.cache import kernels_root
from ..system.private import make_private
from .kernel_list import MLX_VERSION

CUDA_FOLDER = "MLX_PTX_CACHE_DIR"
"""Environment variable from which MLX reads where kernels for a GPU are."""

VECTORS = {"avx2", "fma", "f16c"}
"""CPU features that MLX compiles for, provided that the CPU has all of them (backend/cpu/jit_compiler.cpp)."""


def keep_kernels(kind: str) -> tuple[Path, str | None]:
    """Tell MLX where to keep compiled kernels: in a folder that only the user can write, of machines like this one.

    MLX's own folder on a CPU is the same for all users of a machine, and it loads what it finds there.

    Args:
        kind: "cpu" or "cuda".

    Returns:
        The folder of the kernels' files, and why they are not kept beyond this process; None if they are kept.
    """
    # Python remembers its temporary folder before TMPDIR changes.
    tempfile.gettempdir()
    if kind == "cuda" and os.environ.get(CUDA_FOLDER):
        return Path(os.environ[CUDA_FOLDER]), None
    root = kernels_root() / root_name(kind)
    problem = make_private(root)
    if problem is not None:
        root = Path(tempfile.mkdtemp(prefix="vlora-kernels-"))
        atexit.register(shutil.rmtree, root, ignore_errors=True)
    os.environ["TMPDIR" if kind == "cpu" else CUDA_FOLDER] = str(root)
    note = problem and f"compiled kernels are not kept: {problem}; set XDG_CACHE_HOME to a folder of your own"
    return _own_folder(kind, root), note


def _own_folder(kind: str, root: Path) -> Path:
    """Name the folder of the kernels' files within the folder that MLX is given."""
    return root / "mlx" / MLX_VERSION / "cpu" if kind == "cpu" else root


def root_name(kind: str) -> str:
    """Name the folder of a version of MLX and of machines like this one, within `kernels_root`."""
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
