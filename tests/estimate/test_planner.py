"""The memory of a step: how far a run is ahead of its device."""

import mlx.core as mx
import pytest

from vlora.estimate.planner import find_queue
from vlora.memory.command_buffers import DIVIDED_MB, LARGE_OPERATIONS, MB_VARIABLE, OPS_VARIABLE
from vlora.recipe.resources import MemorySection


@pytest.mark.parametrize(
    ("capability", "memory", "key", "environment", "expected"),
    [
        ((9, 0), 80, None, {}, (LARGE_OPERATIONS, 400)),
        ((9, 0), 80, 200, {MB_VARIABLE: "300"}, (LARGE_OPERATIONS, 200)),
        ((9, 0), 80, None, {MB_VARIABLE: "300", OPS_VARIABLE: "7"}, (7, 300)),
        ((9, 0), 80, None, {MB_VARIABLE: "none"}, (LARGE_OPERATIONS, 0)),
        ((12, 0), 32, None, {}, (LARGE_OPERATIONS, 160)),
        ((8, 0), 80, None, {}, (20, 400)),
        ((12, 1), 128, None, {}, (20, 25)),
        ((8, 9), 24, None, {}, (20, 100)),
    ],
)
def test_the_queue_of_a_run(
    capability: tuple[int, int],
    memory: int,
    key: int | None,
    environment: dict[str, str],
    expected: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A plan counts on the command buffers that a run on this machine will have."""
    info = {"compute_capability_major": capability[0], "compute_capability_minor": capability[1]}
    monkeypatch.setattr("vlora.estimate.planner.device_kind", lambda: "cuda")
    monkeypatch.setattr(mx, "device_info", lambda: {**info, "total_memory": memory * 2**30})
    for name in (MB_VARIABLE, OPS_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    queue = find_queue(MemorySection(max_mb_per_buffer=key))

    # One more operation, or a whole "MB" of numbers more, ends one.
    assert (queue.n_operations, queue.n_elements) == (expected[0], (expected[1] + 1) * 2**20 - 1)
    assert not queue.counts_buffers
    if key is None and MB_VARIABLE not in environment:
        divided = find_queue(MemorySection(), is_divided=True)
        assert divided.n_elements == (min(expected[1], DIVIDED_MB) + 1) * 2**20 - 1


@pytest.mark.parametrize(("letter", "expected"), [("p", (20, 40)), ("g", (40, 40)), ("s", (50, 50)), ("d", (50, 50))])
def test_the_queue_of_a_mac(letter: str, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A Mac's command buffers go by its kind of chip, and not by the recipe."""
    monkeypatch.setattr("vlora.estimate.planner.device_kind", lambda: "metal")
    monkeypatch.setattr(mx, "device_info", lambda: {"architecture": f"applegpu_g16{letter}"})
    for name in (MB_VARIABLE, OPS_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    queue = find_queue(MemorySection(max_mb_per_buffer=7))

    assert (queue.n_operations, queue.n_elements) == (expected[0], (expected[1] + 1) * 2**20 - 1)
    assert queue.counts_buffers
