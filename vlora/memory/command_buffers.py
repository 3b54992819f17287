"""The command buffers in which MLX sends work to a GPU: how large MLX makes them, and how large vlora does. Pure.

Up to eleven command buffers wait, and what they read stays until they are done: large ones keep the device busy, and
much memory in use. One ends after so many operations, or when they have read so many numbers: the "MB" of MLX's name
count numbers, of any type (metal/device.cpp, cuda/device.cpp, `needs_commit`).
"""

import re
from collections.abc import Mapping

import attrs

MB_VARIABLE = "MLX_MAX_MB_PER_BUFFER"
OPS_VARIABLE = "MLX_MAX_OPS_PER_BUFFER"
"""Environment variables of MLX. It reads them once: on CUDA for its first stream, on a Mac while it is imported."""

MB_PER_GIB = 5
"""What vlora lowers the largest command buffers to, per GiB of the card's memory: 398 on 80 GB, 159 on 32 GB."""

DIVIDED_MB = 40
"""What vlora lowers command buffers to where weights are divided among devices: what a layer has gathered is freed when
the command buffers that read it are done. Eleven of 702 held the gathered weights of a whole model of 8.8 billion
parameters (two H200s: a peak of 18.82 GB, and 18.87 GB with whole weights), eleven of 100 those of four layers (12.62
and 18.84 GB). With 40 each large matrix of such a layer, of 50 million numbers, ends one: they are two layers'."""

LARGE_MB = 1000
"""MLX's own for the cards that it gives the largest command buffers."""

LARGE_OPERATIONS = 400
"""Operations of a command buffer on those cards, where MLX has 100: handing one over takes the host as long as a
hundred operations do, and the size in "MB" bounds what it holds. A step of Qwen3-VL-2B's shape, 16 rows, kept features,
takes 124 ms with 400 and 137 with 100, and needs 30.2 GB instead of 28.6 (an H200 whose steps wait for the host)."""


@attrs.frozen(kw_only=True)
class BufferLimits:
    """How much work a command buffer takes.

    Attributes:
        n_operations: Operations, MLX's "ops per buffer"; one more ends it.
        n_mb: Numbers that they read, in units of 2**20, MLX's "MB per buffer"; a whole unit more ends it.
    """

    n_operations: int
    n_mb: int


CUDA = {
    (8, 0): BufferLimits(n_operations=20, n_mb=400),  # A100
    (9, 0): BufferLimits(n_operations=100, n_mb=LARGE_MB),  # H100, H200
    (10, 0): BufferLimits(n_operations=100, n_mb=LARGE_MB),  # B200
    (12, 0): BufferLimits(n_operations=100, n_mb=LARGE_MB),  # RTX 50, RTX PRO Blackwell
    (12, 1): BufferLimits(n_operations=20, n_mb=25),  # DGX Spark
}
"""MLX's own limits by compute capability (`get_graph_limits` in cuda/device.cpp)."""

CUDA_OTHERS = BufferLimits(n_operations=20, n_mb=100)

METAL = {
    "p": BufferLimits(n_operations=20, n_mb=40),  # phones
    "s": BufferLimits(n_operations=50, n_mb=50),  # Max
    "d": BufferLimits(n_operations=50, n_mb=50),  # Ultra
}
"""MLX's own limits by the last letter of a Mac's architecture (`Device` in metal/device.cpp)."""

METAL_OTHERS = BufferLimits(n_operations=40, n_mb=40)


def own_buffer_limits(info: Mapping[str, str | int]) -> BufferLimits:
    """Return the sizes of MLX's command buffers by default.

    Args:
        info: A GPU's, as `mx.device_info` gives it.
    """
    if "compute_capability_major" not in info:
        return METAL.get(str(info.get("architecture", ""))[-1:], METAL_OTHERS)
    return CUDA.get((int(info["compute_capability_major"]), int(info["compute_capability_minor"])), CUDA_OTHERS)


def default_max_mb_per_buffer(info: Mapping[str, str | int], *, is_divided: bool = False) -> int | None:
    """Return vlora's limit for command buffers in MLX's "MB": in proportion to the card's memory.

    Args:
        info: A GPU's, as `mx.device_info` gives it.
        is_divided: Whether weights are divided among devices.

    Returns:
        The number; None where MLX's own are smaller anyway, or the card's memory is not known.
    """
    own = own_buffer_limits(info).n_mb
    lowered = MB_PER_GIB * int(info.get("total_memory", 0)) >> 30
    chosen = lowered if own == LARGE_MB and lowered > 0 else own
    if is_divided and "compute_capability_major" in info:
        chosen = min(chosen, DIVIDED_MB)
    return chosen if chosen < own else None


def default_max_operations(info: Mapping[str, str | int]) -> int | None:
    """Return vlora's limit for a command buffer's operations; None where MLX's own stays.

    Args:
        info: A GPU's, as `mx.device_info` gives it.
    """
    return LARGE_OPERATIONS if own_buffer_limits(info).n_mb == LARGE_MB else None


def find_buffer_limits(
    info: Mapping[str, str | int], given: int | None, environment: Mapping[str, str], *, is_divided: bool = False
) -> BufferLimits:
    """Find the limits of a run's command buffers: the recipe's, else the environment's, else vlora's, else MLX's.

    Args:
        info: The GPU's, as `mx.device_info` gives it.
        given: The recipe's memory.max_mb_per_buffer.
        environment: Environment variables.
        is_divided: Whether weights are divided among devices.
    """
    own = own_buffer_limits(info)
    if given is None:
        given = _read_number(environment, MB_VARIABLE)
    if given is None:
        given = default_max_mb_per_buffer(info, is_divided=is_divided)
    n_operations = _read_number(environment, OPS_VARIABLE)
    if n_operations is None:
        n_operations = default_max_operations(info)
    return BufferLimits(
        n_operations=own.n_operations if n_operations is None else n_operations,
        n_mb=own.n_mb if given is None else given,
    )


def _read_number(environment: Mapping[str, str], name: str) -> int | None:
    """Read a variable as MLX does, with C's `atoi`: a number and whatever follows it; 0 where there is none."""
    if name not in environment:
        return None
    found = re.match(r"\s*([+-]?\d+)", environment[name])
    return int(found[1]) if found else 0
