"""Limits of the memory that MLX may take during a run, and errors that say that there is too little."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..errors import OutOfMemoryError, RecipeError, VloraError
from ..events import Device
from ..recipe.resources import MemorySection
from ..types import Batch
from .command_buffers import MB_VARIABLE, default_max_mb_per_buffer

GIGA = 1e9

OUT_OF_MEMORY = (
    "unable to allocate",
    "out of memory",
    "outofmemory",
    "insufficient memory",
    "attempting to allocate",
    "[metal::malloc] resource limit",
    "alloc_failed",
)
"""Words, in lower case, that only errors about memory have. MLX raises `RuntimeError` for all of its own:

- its allocators (mlx/backend/cuda/allocator.cpp, mlx/backend/metal/allocator.cpp): "[malloc] Unable to allocate 12
  bytes.", "[metal::malloc] Attempting to allocate 12 bytes which is greater than ...", "[metal::malloc] Resource limit
  (12) exceeded.";
- CUDA: "cudaMallocAsync(&data, size, stream) failed: out of memory", and the same when a graph is made;
- cuDNN: "CUDNN_STATUS_ALLOC_FAILED";
- Metal, when a command buffer is over: "[METAL] Command buffer execution failed: Insufficient Memory
  (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)."

On a CPU MLX does not check its allocations (mlx/backend/no_gpu/allocator.cpp): the process ends with a segmentation
fault, or the system kills it."""

LARGEST_DIMENSION = 2**31 - 1
"""Entries of one dimension of an array: MLX counts them in 32 bits."""

TOO_LARGE = re.compile(
    r"(?:dimension|value) (?P<found>\d+) is outside the supported range \[-2147483648, 2147483647\]"
    r"|cannot reshape array of size (?P<size>\d+) into shape \(-\d{7,}\)"
    r"|\[arange\] maximum size exceeded|slice indices must be 32-bit integers|more than the uint32 output can index",
    re.IGNORECASE,
)
"""What MLX 0.32.4 says of a dimension with more entries, tried with every operation that makes or joins dimensions:

- reshape, flatten, concatenate, repeat, tile, pad, cumsum, argmax: "[reshape] Shape dimension 2717908992 is outside the
  supported range [-2147483648, 2147483647]. MLX currently uses 32-bit integers for shape dimensions.", an
  `OverflowError`; zeros, broadcast_to and random numbers begin with "Integer value" instead;
- sort: "[reshape] Cannot reshape array of size 2147483648 into shape (-2147483648).", a `ValueError`, like the rest.

It says "std::bad_cast" where a shape's own number is too large in Python; that may mean anything, and is not read."""

LONGEST_FOUND = 160
"""Characters of what MLX said that an error repeats."""


@contextmanager
def memory_limits(section: MemorySection) -> Iterator[None]:
    """Apply a recipe's memory limits to MLX, and restore the earlier ones afterwards.

    Without `cache_gb` the freed buffers that MLX keeps are at most half of its memory limit: MLX itself would keep as
    many as the limit allows, and batches of many lengths leave many that fit nothing else. On a CPU they are an eighth:
    MLX itself would keep 32 MB there, and have most of a step's memory given to it anew, and zeroed, page by page.

    The size of command buffers stays for the rest of the process: `set_max_mb_per_buffer`.

    Raises:
        RecipeError: `wired_gb` is more than this machine can wire, or `max_mb_per_buffer` cannot be had.
    """
    set_max_mb_per_buffer(section)
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


def set_max_mb_per_buffer(section: MemorySection) -> None:
    """Fix how much work MLX sends to a CUDA device in one command buffer, for the rest of the process.

    MLX reads it from the environment when it makes its first stream. Without `max_mb_per_buffer` what the environment
    says stays, and else the largest command buffers are lowered in proportion to the card, if that is still possible.

    Raises:
        RecipeError: `max_mb_per_buffer` is given, and there is no GPU, or MLX has read another value already.
    """
    given, kind = section.max_mb_per_buffer, device_kind()
    wanted = given
    if wanted is None and kind == "cuda" and MB_VARIABLE not in os.environ:
        wanted = default_max_mb_per_buffer(mx.device_info())
    if wanted is None or (kind != "cpu" and os.environ.get(MB_VARIABLE) == str(wanted)):
        return
    is_set = kind == "cuda" and _begin_with(wanted)
    if is_set or given is None:
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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of MLX, of a library or of Python says that an allocation failed or an array is too large."""
    text = str(error).lower()
    is_lacking = isinstance(error, RuntimeError) and any(words in text for words in OUT_OF_MEMORY)
    return is_lacking or isinstance(error, MemoryError) or too_large_dimension(error) > 0


def too_large_dimension(error: BaseException) -> int:
    """Return the size of the dimension that MLX refused as too large; 0 for any other error.

    MLX does not always say the number: then it is the smallest one that it refuses.
    """
    if not isinstance(error, (OverflowError, ValueError)) or isinstance(error, VloraError):
        return 0
    found = TOO_LARGE.search(str(error))
    return 0 if found is None else max(int(found["found"] or found["size"] or 0), LARGEST_DIMENSION + 1)


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


def check_weights_fit(section: MemorySection, module: nn.Module) -> None:
    """Refuse a limit that the model's weights alone exceed.

    Raises:
        RecipeError: They do.
    """
    if section.limit_gb is None:
        return
    weights = sum(value.nbytes for _, value in tree_flatten(module.parameters())) / GIGA
    if weights > section.limit_gb:
        msg = (
            f"memory.limit_gb: found {section.limit_gb:g}, but the model's weights alone take {weights:.3g} GB; "
            "raise it, or set model.quantize_bits"
        )
        raise RecipeError(msg)


def _begin_with(max_mb: int) -> bool:
    """Set the environment variable and make MLX's first stream; do nothing if it has made one before.

    Only the number of a new stream tells how many there are. The first one becomes this thread's default, as the one
    that MLX makes on demand would; a later one stays unused.
    """
    before = os.environ.get(MB_VARIABLE)
    os.environ[MB_VARIABLE] = str(max_mb)
    stream = mx.new_stream(mx.default_device())
    is_first = str(stream).endswith(", 0)")
    if is_first:
        mx.set_default_stream(stream)  # stream: each thread has its own default one, and no array is there yet
    elif before is None:
        del os.environ[MB_VARIABLE]
    else:
        os.environ[MB_VARIABLE] = before
    return is_first


def _wire(wired_gb: float) -> int:
    if not mx.metal.is_available():
        msg = f"memory.wired_gb: found {wired_gb:g}, but only Macs wire memory; leave it out"
        raise RecipeError(msg)
    try:
        return int(mx.set_wired_limit(int(wired_gb * GIGA)))
    except ValueError as error:
        msg = f"memory.wired_gb: found {wired_gb:g}, which this machine cannot wire ({error})"
        raise RecipeError(msg) from None
