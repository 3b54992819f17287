"""`--devices N`: a run on several devices of this host, with a process for each."""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..errors import RanksError
from ..system.launching import launch
from ..system.rank_environment import VISIBLE, find_rank, make_environments

MOST_ON_A_CPU = 8
"""Processes, for trying things out: a CPU is not shared out among them faster."""

HOSTS = "mlx.launch --hostfile connects several machines (README, several devices)"


def is_other_rank() -> bool:
    """Whether this process is one of several that carry out a run, and not the first one, which shows it."""
    return find_rank(os.environ) not in (None, 0)


def is_rank() -> bool:
    """Whether this process is one of several that carry out a run."""
    return find_rank(os.environ) is not None


def launch_ranks(n_devices: int, typed: Sequence[str]) -> int:
    """Carry out what was typed on several devices.

    Args:
        n_devices: How many.
        typed: The arguments of `python -m vlora`.

    Returns:
        The exit status: that of the first process, or of one that has failed.

    Raises:
        RanksError: This machine has not as many devices.
    """
    import mlx.core as mx

    from ..memory.limits import device_kind

    kind = device_kind()
    if kind == "metal":
        msg = f"--devices: found {n_devices}, and a Mac has one GPU; {HOSTS}"
        raise RanksError(msg)
    if kind == "cpu" and n_devices > (most := max(MOST_ON_A_CPU, os.cpu_count() or 1)):
        msg = f"--devices: found {n_devices}, and processes of a CPU share its cores; give {most} at most"
        raise RanksError(msg)
    if kind == "cuda" and n_devices > (there := mx.device_count(mx.Device(mx.gpu).type)):
        msg = f"--devices: found {n_devices}, and there are {there}; {HOSTS}"
        raise RanksError(msg)
    with tempfile.TemporaryDirectory(prefix="vlora-ranks-") as folder:
        environments = make_environments(kind, n_devices, Path(folder), os.environ.get(VISIBLE, ""))
        return launch([sys.executable, "-m", "vlora", *typed], environments, _say)


def _say(sentence: str) -> None:
    print(f"vlora: {sentence}", file=sys.stderr)
