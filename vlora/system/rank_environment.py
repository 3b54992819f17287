"""Variables by which the processes of a run on several devices know their places."""

import json
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

RANK, SIZE, HOSTFILE = "MLX_RANK", "MLX_WORLD_SIZE", "MLX_HOSTFILE"
NCCL_HOST, NCCL_PORT, VISIBLE = "NCCL_HOST_IP", "NCCL_PORT", "CUDA_VISIBLE_DEVICES"
"""MLX's, NCCL's and CUDA's own."""

OF_MPI = ("OMPI_COMM_WORLD_RANK", "PMI_RANK")
"""What Open MPI and other MPIs tell the processes that they start."""

LOCAL = "127.0.0.1"


def find_rank(environment: Mapping[str, str]) -> int | None:
    """Find which of several ranks this process is; None if it is a run by itself."""
    for name in (RANK, *OF_MPI):
        if environment.get(name, "").isdecimal():
            return int(environment[name])
    return None


def make_environments(kind: str, n_ranks: int, folder: Path, visible: str = "") -> list[dict[str, str]]:
    """Give the variables of ranks of this host, each with a device of its own.

    Args:
        kind: "cuda" connects them by NCCL; "cpu" by MLX's ring.
        n_ranks: How many.
        folder: Where a file may be written that they read.
        visible: What `CUDA_VISIBLE_DEVICES` is here: the devices to choose from, where it is set.
    """
    if kind == "cuda":
        devices = [name for name in visible.split(",") if name] or [str(number) for number in range(n_ranks)]
        (port,) = _find_ports(1)
        shared = {SIZE: str(n_ranks), NCCL_HOST: LOCAL, NCCL_PORT: str(port)}
        return [{RANK: str(rank), VISIBLE: devices[rank], **shared} for rank in range(n_ranks)]
    path = folder / "ranks.json"
    path.write_text(json.dumps([[f"{LOCAL}:{port}"] for port in _find_ports(n_ranks)]), encoding="utf-8")
    return [{RANK: str(rank), HOSTFILE: str(path)} for rank in range(n_ranks)]


def _find_ports(n_ports: int) -> list[int]:
    """Find ports that nothing uses; all are held until the last one is found."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n_ports)]
        for found in sockets:
            found.bind((LOCAL, 0))
        return [int(found.getsockname()[1]) for found in sockets]
