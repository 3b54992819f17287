"""Limits of the memory that MLX may take during a run, and errors that say that there is too little."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..errors import OutOfMemoryError, RecipeError
from ..events import Device
from ..recipe.resources import MemorySection
from ..types import Batch
from .command_buffers import MB_VARIABLE, OPS_VARIABLE, default_max_mb_per_buffer, default_max_operations
from .shortage import is_out_of_memory, too_large_dimension

GIGA = 1e9


LONGEST_FOUND = 160
"""Characters of what MLX said that an error repeats."""


@contextmanager
def memory_limits(section: MemorySection, *, is_divided: bool = False) -> Iterator[None]:
    """Apply a recipe's memory limits to MLX, and restore the earlier ones afterwards.

    Without `cache_gb` the freed buffers that MLX keeps are at most half of its memory limit: MLX itself would keep as
    many as the limit allows, and batches of many lengths leave many that fit nothing else. On a CPU they are an eighth:
    MLX itself would keep 32 MB there, and have most of a step's memory given to it anew, and zeroed, page by page.

    The limits of command buffers stay for the rest of the process: `set_buffer_limits`.

    Args:
        section: The recipe's.
        is_divided: Whether weights are divided among devices.

    Raises:
        RecipeError: `wired_gb` is more than this machine can wire, or `max_mb_per_buffer` cannot be had.
    """
    set_buffer_limits(section, is_divided=is_divided)
    held = []
    try:
        if section.limit_gb is not None:
            held.append((mx.set_memory_limit, mx.set_memory_limit(int(section.limit_gb * GIGA))))
        cache = mx.set_cache_limit(0)
        held.append((mx.set_cache_limit, cache))
        given = section.cache_gb
        own = memory_limit() // 8 if device_kind() == "cpu" else min(cache, memory_limit() // 2)
        mx.set_cache_limit(own if given is None else int(given * GIGA))
        if section.wired_gb is not None:
            held.append((mx.set_wired_limit, _wire(section.wired_gb)))
        yield
    finally:
        for restore, value in reversed(held):
            restore(value)


def set_buffer_limits(section: MemorySection, *, is_divided: bool = False) -> None:
    """Fix how much work MLX sends to a CUDA device in one command buffer, for the rest of the process.

    MLX reads both limits, of size and of operations, from the environment when it makes its first stream. What the
    environment says stays, but for the size where `max_mb_per_buffer` is given. Else the cards with the largest command
    buffers get a size in proportion to their memory, and more operations, if that is still possible.

    Args:
        section: The recipe's.
        is_divided: Whether weights are divided among devices: command buffers are lowered further then.

    Raises:
        RecipeError: `max_mb_per_buffer` is given, and there is no GPU, or MLX has read another value already.
    """
    given, kind = section.max_mb_per_buffer, device_kind()
    wanted = {MB_VARIABLE: given}
    if kind == "cuda":
        info = mx.device_info()
        wanted[OPS_VARIABLE] = None if OPS_VARIABLE in os.environ else default_max_operations(info)
        if given is None and MB_VARIABLE not in os.environ:
            wanted[MB_VARIABLE] = default_max_mb_per_buffer(info, is_divided=is_divided)
    variables = {name: str(number) for name, number in wanted.items() if number is not None}
    # A run before this one may have set them.
    variables = {name: value for name, value in variables.items() if os.environ.get(name) != value}
    if kind == "cuda" and variables and _begin_with(variables):
        return
    if given is None or (kind != "cpu" and os.environ.get(MB_VARIABLE) == str(given)):
        return
    reasons = {
        "cpu": "only GPUs are sent work in command buffers; leave it out",
        "metal": f"on a Mac MLX reads it before any recipe is read; start Python with {MB_VARIABLE}={given} instead",
        "cuda": f"MLX has run something in this process and no longer asks; set {MB_VARIABLE}={given} in the "
        "environment before the first array, or run the recipe with `python -m vlora`",
    }
    msg = f"memory.max_mb_per_buffer: found {given}, but {reasons[kind]}"
    raise RecipeError(msg)


def device_kind() -> Literal["cpu", "metal", "cuda"]:
    """Return the kind of MLX's default device; nothing runs on it."""
    if mx.default_device() == mx.Device(mx.cpu):
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def describe_device() -> Device:
    """Describe MLX's default device."""
    kind, found = device_kind(), mx.device_info()
    return Device(kind=kind, name=str(found.get("device_name", kind)).strip(), memory_bytes=device_memory())


@contextmanager
def naming_shortage(where: str, batch: Batch | None = None, remedy: str = "") -> Iterator[None]:
    """Turn an error about memory, or about an array too large for MLX, into one that names the computation.

    Args:
        where: What is computed ("step 12").
        batch: On which batch.
        remedy: What would need less, besides all that a plan can find.

    Raises:
        OutOfMemoryError: Memory, or an array, could not be had.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OverflowError, ValueError) as error:
        if not is_out_of_memory(error):
            raise
        found = " ".join(str(error).split()).rstrip(".")[:LONGEST_FOUND] or "no memory"
        is_host = isinstance(error, MemoryError) and device_kind() != "cpu"
        dimension = too_large_dimension(error)
        raise OutOfMemoryError(where, found, batch, is_host=is_host, remedy=remedy, dimension=dimension) from None


def memory_limit() -> int:
    """Read MLX's memory limit, in bytes; there is only a function that sets it."""
    limit = mx.set_memory_limit(1 << 62)
    mx.set_memory_limit(limit)
    return int(limit)


def device_memory() -> int:
    """Return the memory for arrays in bytes: a Mac's recommended share, a GPU's own, else the machine's."""
    found = mx.device_info()
    for key in ("max_recommended_working_set_size", "total_memory", "memory_size"):
        if found.get(key):
            return int(found[key])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def process_memory() -> int:
    """Return the memory that this process may have for arrays, in bytes: the device's, or a limit of the shell."""
    found = device_memory()
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return found
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (ImportError, OSError):
        return found
    return min(found, limit - pages * resource.getpagesize() + mx.get_active_memory())


def check_weights_fit(section: MemorySection, module: nn.Module, n_elsewhere: int = 0) -> None:
    """Refuse a limit that the model's weights alone exceed.

    Args:
        section: The limits.
        module: The model.
        n_elsewhere: Bytes of its weights that other devices keep.

    Raises:
        RecipeError: They do.
    """
    if section.limit_gb is None:
        return
    weights = (sum(value.nbytes for _, value in tree_flatten(module.parameters())) - n_elsewhere) / GIGA
    if weights > section.limit_gb:
        msg = (
            f"memory.limit_gb: found {section.limit_gb:g}, but the model's weights alone take {weights:.3g} GB; "
            "raise it, or set model.quantize_bits"
        )
        raise RecipeError(msg)


def _begin_with(variables: Mapping[str, str]) -> bool:
    """Set environment variables and make MLX's first stream; do nothing if it has made one before.

    Only the number of a new stream tells how many there are. The first one becomes this thread's default, as the one
    that MLX makes on demand would; a later one stays unused.
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    stream = mx.new_stream(mx.default_device())
    is_first = str(stream).endswith(", 0)")
    if is_first:
        mx.set_default_stream(stream)  # stream: each thread has its own default one, and no array is there yet
        return True
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    return False


def _wire(wired_gb: float) -> int:
    if not mx.metal.is_available():
        msg = f"memory.wired_gb: found {wired_gb:g}, but only Macs wire memory; leave it out"
        raise RecipeError(msg)
    try:
        return int(mx.set_wired_limit(int(wired_gb * GIGA)))
    except ValueError as error:
        msg = f"memory.wired_gb: found {wired_gb:g}, which this machine cannot wire ({error})"
        raise RecipeError(msg) from None
