"""A fast BLAS for MLX on Linux CPUs.

MLX's CPU wheel for Linux carries the reference BLAS, written for clarity: 2 GFLOP/s where OpenBLAS has 90 (1024 x 1024
float32, 2 cores of an AMD EPYC). OpenCV, which mlx-vlm depends on, carries OpenBLAS. Loading that with global symbols
before MLX is imported makes the dynamic linker bind MLX's calls to it. Nothing is replaced on disk; where anything is
not as expected, MLX keeps its own.
"""

import contextlib
import ctypes
import ctypes.util
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

SWITCH = "VLORA_BLAS"
"""Environment variable: a library to load instead, or "off"."""

NEEDED = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm", "sgesdd_", "ssyevd_", "spotrf_")


def load_fast_blas() -> str | None:
    """Bind MLX's matrix products to a fast BLAS, if MLX came with the reference one.

    Returns:
        The library that was loaded, or None if MLX keeps its own.
    """
    choice = os.environ.get(SWITCH, "")
    if sys.platform != "linux" or choice == "off":
        return None
    if not choice and not _mlx_has_reference_blas():
        return None
    for library in [choice] if choice else _candidates():
        with contextlib.suppress(OSError):
            if all(hasattr(ctypes.CDLL(library), name) for name in NEEDED):
                ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
                return library
    return None


def _mlx_has_reference_blas() -> bool:
    spec = importlib.util.find_spec("mlx")
    roots = spec.submodule_search_locations if spec is not None else None
    return any(next(Path(root).parent.glob("mlx_cpu.libs/libblas-*"), None) for root in roots or ())


def _candidates() -> Iterator[str]:
    system = ctypes.util.find_library("openblas")
    if system is not None:
        yield system
    spec = importlib.util.find_spec("cv2")
    for root in (spec.submodule_search_locations if spec is not None else None) or ():
        yield from sorted(map(str, Path(root).parent.glob("opencv_python*.libs/libopenblas*")))


LOADED = load_fast_blas()
"""What `load_fast_blas` returned when vlora was imported."""
