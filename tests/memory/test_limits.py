"""MLX's limits: set for a run, put back after it, refused where they cannot be kept."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from tests.training import make_trainable
from vlora import fit, parse_recipe
from vlora.errors import RecipeError
from vlora.events import Started
from vlora.memory.command_buffers import MB_VARIABLE, OPS_VARIABLE, default_max_mb_per_buffer
from vlora.memory.limits import check_weights_fit, device_kind, memory_limit, memory_limits, set_buffer_limits
from vlora.recipe.resources import MemorySection

ROOT = Path(__file__).parents[2]
MIB = 2**20


def card(capability: tuple[int, int], memory: int) -> dict[str, Any]:
    """Describe a card as MLX does on CUDA."""
    major, minor = capability
    return {"compute_capability_major": major, "compute_capability_minor": minor, "total_memory": memory}


H100 = card((9, 0), 81559 * MIB)


def cache_limit() -> int:
    """Read MLX's cache limit, in bytes."""
    limit = mx.set_cache_limit(0)
    mx.set_cache_limit(limit)
    return int(limit)


def test_limits_hold_and_are_put_back() -> None:
    """Inside they are the recipe's, after it, and after an error in it, what they were."""
    before = memory_limit(), cache_limit()
    with contextlib.suppress(KeyError), memory_limits(MemorySection(limit_gb=3.0, cache_gb=0.5)):
        assert (memory_limit(), cache_limit()) == (3 * 10**9, 5 * 10**8)
        raise KeyError

    assert (memory_limit(), cache_limit()) == before


def test_the_cache_is_bounded_without_being_told() -> None:
    """Half of the memory limit, and never more than MLX's own limit; on a CPU, where that is small, an eighth."""
    own = cache_limit()
    with memory_limits(MemorySection(limit_gb=0.8)):
        assert cache_limit() == (10**8 if device_kind() == "cpu" else min(own, 4 * 10**8))


@pytest.mark.skipif(mx.metal.is_available(), reason="Macs wire memory")
def test_only_macs_wire() -> None:
    """Elsewhere the key would be ignored, so it is refused; what was set before it is put back."""
    before = memory_limit()
    with pytest.raises(RecipeError, match=r"memory\.wired_gb: found 1, but only Macs"):
        memory_limits(MemorySection(limit_gb=2.0, wired_gb=1.0)).__enter__()

    assert memory_limit() == before


def test_a_limit_below_the_weights(checkpoint: Callable[[str], Path]) -> None:
    """A limit that the weights alone exceed is refused with their size."""
    module = make_trainable(checkpoint("qwen3_vl")).backbone.module

    check_weights_fit(MemorySection(limit_gb=1.0), module)
    with pytest.raises(
        RecipeError, match=r"memory\.limit_gb: found 1e-06, but the model's weights alone take 0\.\d*[1-9]\d* GB"
    ):
        check_weights_fit(MemorySection(limit_gb=1e-6), module)
    check_weights_fit(MemorySection(limit_gb=1e-6), module, n_elsewhere=2**30)


def test_fit_puts_them_back(tmp_path: Path) -> None:
    """Who stops listening to a run gets the limits back that held before it."""
    keys = {
        "model.path": "builtin:tiny-qwen3-vl",
        "data.path": "builtin:digits",
        "train.iters": 1,
        "output.path": str(tmp_path / "run"),
        "features.disk_gb": 0.0,
        "memory.limit_gb": 4.0,
    }
    before = memory_limit(), cache_limit()
    run = fit(parse_recipe("", keys))
    started = next(event for event in run if isinstance(event, Started))
    inside = memory_limit()
    run.close()

    assert started.head.extent == "chunks"
    assert inside == 4 * 10**9
    assert (memory_limit(), cache_limit()) == before


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (H100, 398),
        (card((9, 0), 143771 * MIB), 702),
        (card((12, 0), 32607 * MIB), 159),
        (card((12, 0), 24463 * MIB), 119),
        (card((10, 0), 288 * 1024 * MIB), None),
        (card((8, 0), 81920 * MIB), None),
        (card((8, 9), 24564 * MIB), None),
        (card((12, 1), 128 * 1024 * MIB), None),
        (card((9, 0), 0), None),
        ({"architecture": "applegpu_g16s", "memory_size": 2**36}, None),
    ],
    ids=["H100", "H200", "5090", "5080-24", "B300", "A100", "4090", "Spark", "unknown", "Mac"],
)
def test_large_command_buffers_are_in_proportion(info: dict[str, Any], expected: int | None) -> None:
    """The largest command buffers of MLX, and only they, are lowered to what the card's memory bears."""
    assert default_max_mb_per_buffer(info) == expected


@pytest.mark.skipif(device_kind() != "cpu", reason="a GPU has command buffers")
def test_only_gpus_have_command_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU the key would be ignored, so it is refused; without it nothing happens."""
    monkeypatch.delenv(MB_VARIABLE, raising=False)
    with pytest.raises(RecipeError, match=r"memory\.max_mb_per_buffer: found 200, but only GPUs"):
        memory_limits(MemorySection(max_mb_per_buffer=200)).__enter__()
    set_buffer_limits(MemorySection())

    assert MB_VARIABLE not in os.environ


def test_a_mac_is_told_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Mac's MLX has read the variable by then, so that the key can only agree with it."""
    monkeypatch.setattr("vlora.memory.limits.device_kind", lambda: "metal")
    monkeypatch.setenv(MB_VARIABLE, "30")
    set_buffer_limits(MemorySection(max_mb_per_buffer=30))

    with pytest.raises(RecipeError, match=f"on a Mac .* start Python with {MB_VARIABLE}=20"):
        set_buffer_limits(MemorySection(max_mb_per_buffer=20))


@pytest.mark.parametrize("before", [None, "250"])
def test_too_late_for_another_size(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where MLX has run, the key is refused with what to do, the default is left, and the environment is as it was."""
    mx.eval(mx.ones(1))
    monkeypatch.setattr("vlora.memory.limits.device_kind", lambda: "cuda")
    monkeypatch.setattr(mx, "device_info", lambda: H100)
    if before is None:
        monkeypatch.delenv(MB_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(MB_VARIABLE, before)
    set_buffer_limits(MemorySection())
    with pytest.raises(RecipeError, match=f"found 200, but MLX has run .* set {MB_VARIABLE}=200"):
        set_buffer_limits(MemorySection(max_mb_per_buffer=200))

    assert os.environ.get(MB_VARIABLE) == before
    set_buffer_limits(MemorySection(max_mb_per_buffer=250 if before else None))


def test_a_second_run_makes_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """What MLX was given already is not set once more: a stream is never given back."""
    monkeypatch.setattr("vlora.memory.limits.device_kind", lambda: "cuda")
    monkeypatch.setattr(mx, "device_info", lambda: H100)
    monkeypatch.setattr(mx, "new_stream", lambda _: pytest.fail("made a stream"))
    monkeypatch.setenv(MB_VARIABLE, "250")
    monkeypatch.setenv(OPS_VARIABLE, "400")

    set_buffer_limits(MemorySection(max_mb_per_buffer=250))
    set_buffer_limits(MemorySection())


@pytest.mark.parametrize(
    ("key", "environment", "expected"),
    [
        pytest.param("", {}, "398", id="default"),
        pytest.param("", {MB_VARIABLE: "1000"}, "1000", id="environment", marks=pytest.mark.slow),
        pytest.param("200", {MB_VARIABLE: "1000"}, "200", id="key", marks=pytest.mark.slow),
    ],
)
def test_the_command_line_is_in_time(key: str, environment: dict[str, str], expected: str, tmp_path: Path) -> None:
    """Nothing on the way to where a run fixes the size has made a stream; the key comes before the environment."""
    code = f"""
import os, sys
from vlora.cli.main import main
from vlora.memory import limits
import mlx.core as mx

limits.device_kind = lambda: "cuda"
mx.device_info = lambda *_: {{**{H100}, "architecture": "sm_90"}}

from vlora.compilation import known_kernels

# No kernel of a GPU can be compiled here.
known_kernels.list_missing = lambda *_: []
status = main(sys.argv[1:])
print("ended with", status, os.environ.get("{MB_VARIABLE}"))
"""
    keys = ["model.path=builtin:tiny-qwen3-vl", "data.path=builtin:digits", "train.iters=1", "features.disk_gb=0"]
    keys += [f"output.path={tmp_path}/run", *([f"memory.max_mb_per_buffer={key}"] if key else [])]
    inherited = {name: value for name, value in os.environ.items() if name != MB_VARIABLE}
    result = subprocess.run(
        [sys.executable, "-c", code, *(word for key in keys for word in ("--set", key))],
        cwd=ROOT,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
    )

    assert f"ended with 0 {expected}" in result.stdout, result.stdout + result.stderr
