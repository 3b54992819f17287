"""What MLX may take of the device's memory, for the time of a run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .errors import RecipeError
from .recipe import MemorySection

GIGA = 1e9


@contextmanager
def memory_limits(section: MemorySection) -> Iterator[None]:
    """Keep MLX to a recipe's limits, and put back afterwards what held before.

    Without `cache_gb` the freed buffers that MLX keeps are at most half of its memory limit: MLX itself would keep as
    many as the limit allows, and batches of many lengths leave many that fit nothing else.

    Raises:
        RecipeError: `wired_gb` is more than this machine can wire.
    """
    held = []
    try:
        if section.limit_gb is not None:
            held.append((mx.set_memory_limit, mx.set_memory_limit(int(section.limit_gb * GIGA))))
        cache = mx.set_cache_limit(0)
        held.append((mx.set_cache_limit, cache))
        given = section.cache_gb
        mx.set_cache_limit(min(cache, memory_limit() // 2) if given is None else int(given * GIGA))
        if section.wired_gb is not None:
            held.append((mx.set_wired_limit, _wire(section.wired_gb)))
        yield
    finally:
        for restore, value in reversed(held):
            restore(value)


def memory_limit() -> int:
    """Read MLX's memory limit, in bytes; there is only a function that sets it."""
    limit = mx.set_memory_limit(1 << 62)
    mx.set_memory_limit(limit)
    return int(limit)


def device_memory() -> int:
    """Say how much memory there is for arrays, in bytes: a Mac's recommended share, a GPU's own, else the machine's."""
    found = mx.device_info()
    for key in ("max_recommended_working_set_size", "total_memory", "memory_size"):
        if found.get(key):
            return int(found[key])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


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


def _wire(wired_gb: float) -> int:
    if not mx.metal.is_available():
        msg = f"memory.wired_gb: found {wired_gb:g}, but only Macs wire memory; leave it out"
        raise RecipeError(msg)
    try:
        return int(mx.set_wired_limit(int(wired_gb * GIGA)))
    except ValueError as error:
        msg = f"memory.wired_gb: found {wired_gb:g}, which this machine cannot wire ({error})"
        raise RecipeError(msg) from None
