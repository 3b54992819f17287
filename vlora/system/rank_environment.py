"""Variables by which the processes of a run on several devices know their places."""

import json
import secrets
import socket
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

RANK, SIZE, HOSTFILE = "MLX_RANK", "MLX_WORLD_SIZE", "MLX_HOSTFILE"
NCCL_HOST, NCCL_PORT, VISIBLE = "NCCL_HOST_IP", "NCCL_PORT", "CUDA_VISIBLE_DEVICES"
"""MLX's, NCCL's and CUDA's own."""

OF_MPI = ("OMPI_COMM_WORLD_RANK", "PMI_RANK")
"""What Open MPI and other MPIs tell the processes that they start."""

LOCAL = "127.0.0.1"

PORTS = range(20_000, 32_768)
"""From which ranks get theirs: below those that systems give to connections by themselves."""


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
    """Find ports that nothing uses; all are held until the last one is found.

    A process binds its port seconds later. Until then the system could give one of its own choice to any connection.

    Raises:
        OSError: There are not so many.
    """
    found: list[int] = []
    with ExitStack() as stack:
        for port in secrets.SystemRandom().sample(PORTS, len(PORTS)):
            tried = stack.enter_context(socket.socket())
            with suppress(OSError):
                tried.bind((LOCAL, port))
                found.append(port)
            if len(found) == n_ports:
                return found
    msg = f"found {len(found)} free ports of {LOCAL} from {PORTS[0]} to {PORTS[-1]}, and {n_ports} are needed"
    raise OSError(msg)
