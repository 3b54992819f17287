"""The CUDA sources in `cuda/`, as the kernels of `cuda_kernels` are compiled from them."""

import functools
from pathlib import Path

FOLDER = Path(__file__).with_name("cuda")


@functools.cache
def read_source(name: str) -> str:
    """Read a CUDA source, once a process.

    Compiled code is kept under a digest of its source: one changed character compiles a kernel anew on every machine.

    Args:
        name: The file's, without its suffix.

    Returns:
        The text behind an empty line, so that it begins a line wherever it is inserted.
    """
    return "\n" + (FOLDER / f"{name}.cu").read_text(encoding="utf-8")
