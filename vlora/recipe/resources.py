"""The sections of a recipe for what a run may take of the machine, disk and memory; neither changes what it learns."""

import attrs

from . import checks
from .converter import key

MOST_IDS = 2**31 - 1


@attrs.frozen(kw_only=True)
class FeaturesSection:
    """Features of images, kept from epoch to epoch and from run to run while nothing that makes them is trained.

    Attributes:
        cache: Keep them.
        memory_gb: Gigabytes of memory for them at most; 0 for none. Without a number a sixteenth of the device's, but
            1 at least.
        disk_gb: Gigabytes of disk for those of all models together at most; 0 for none.
        path: The folder on disk; without one, vlora/features in the user's cache directory.
    """

    cache: bool = key(default=True)
    memory_gb: float | None = key(None, checks.gigabytes)
    disk_gb: float = key(20.0, checks.gigabytes)
    path: str | None = key(None, checks.place)


@attrs.frozen(kw_only=True)
class MemorySection:
    """What MLX may take of the device's memory, in gigabytes (1e9 bytes).

    Attributes:
        limit_gb: Beyond it MLX waits for what is under way before it allocates more, and frees what it keeps.
        cache_gb: Freed buffers that MLX keeps for reuse at most; half of the limit if not given, an eighth on a CPU.
        wired_gb: Memory of a Mac that is never swapped out.
        max_mb_per_buffer: Work that is handed to an NVIDIA GPU at once: numbers that it reads, in units of 2**20, at
            most. Without it what MLX_MAX_MB_PER_BUFFER says, else in proportion to a card of the latest kinds, else
            MLX's own.
    """

    limit_gb: float | None = key(None, checks.some_gigabytes)
    cache_gb: float | None = key(None, checks.gigabytes)
    wired_gb: float | None = key(None, checks.some_gigabytes)
    max_mb_per_buffer: int | None = key(None, checks.within(1, MOST_IDS))
