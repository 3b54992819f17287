"""Checks of memory limits."""

from pathlib import Path

import mlx.core as mx

from ..errors import CheckError
from ..memory.limits import GIGA, device_kind, memory_limit, memory_limits
from ..recipe.resources import MemorySection


def check_limits(_: Path) -> str:
    """Check that a recipe's memory limits hold during a run, and are restored after it."""
    before, cache = memory_limit(), _cache_limit()
    wired = 1.0 if device_kind() == "metal" else None
    with memory_limits(MemorySection(limit_gb=2.0, cache_gb=0.5, wired_gb=wired)):
        within = memory_limit(), _cache_limit()
        mx.eval(mx.ones((1024, 1024)) @ mx.ones((1024, 1024)))
    if within != (2 * 10**9, 5 * 10**8):
        msg = f"limits of 2 GB and a cache of 0.5 GB were set, but {within[0]:,} and {within[1]:,} bytes hold"
        raise CheckError(msg)
    if (memory_limit(), _cache_limit()) != (before, cache):
        msg = f"after a run {memory_limit():,} and {_cache_limit():,} bytes hold, where {before:,} and {cache:,} did"
        raise CheckError(msg)
    wires = "" if wired is None else ", 1 GB wired"
    return f"2 GB and a cache of 0.5 GB set{wires}; back to {before / GIGA:.2f} and {cache / GIGA:.2f} GB"


def _cache_limit() -> int:
    limit = mx.set_cache_limit(0)
    mx.set_cache_limit(limit)
    return int(limit)
