"""Where processes find their places among the ranks of a run."""

import json
import socket
from pathlib import Path

import pytest

from vlora.system import rank_environment
from vlora.system.rank_environment import find_rank, make_environments


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, None),
        ({"MLX_RANK": "0"}, 0),
        ({"OMPI_COMM_WORLD_RANK": "3"}, 3),
        ({"PMI_RANK": "1"}, 1),
        ({"MLX_RANK": ""}, None),
    ],
)
def test_rank(environment: dict[str, str], rank: int | None) -> None:
    """Of MLX's launcher and of MPIs; none of a run by itself."""
    assert find_rank(environment) == rank


def test_ring_has_a_port_for_each(tmp_path: Path) -> None:
    """All ranks read the same file, which has another port for each."""
    found = make_environments("cpu", 3, tmp_path)
    ports = {address for rank in json.loads(Path(found[0]["MLX_HOSTFILE"]).read_text()) for address in rank}

    assert [find_rank(environment) for environment in found] == [0, 1, 2]
    assert len(ports) == 3


def test_ports_are_free_and_stay_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is taken is passed over; none is of those that systems give to connections, until it is bound."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr(rank_environment, "PORTS", range(taken.getsockname()[1], taken.getsockname()[1] + 1))
        with pytest.raises(OSError, match=r"found 0 free ports of 127\.0\.0\.1 .* and 2 are needed"):
            make_environments("cpu", 2, tmp_path)
    monkeypatch.undo()
    (environment,) = make_environments("cuda", 1, tmp_path)

    assert 1024 < int(environment["NCCL_PORT"]) < 32_768


def test_every_rank_sees_its_own_gpu(tmp_path: Path) -> None:
    """Devices are chosen from those that are visible here."""
    found = make_environments("cuda", 2, tmp_path, "5,2,7")

    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in found] == ["5", "2"]
    assert len({environment["NCCL_PORT"] for environment in found}) == 1
