"""MLX's limits: set for a run, put back after it, refused where they cannot be kept."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from tests.families import FAMILIES, build
from tests.training import make_trainable
from vlora import fit, parse_recipe
from vlora.backend.families import describe_family
from vlora.backend.loading import prepare
from vlora.errors import RecipeError
from vlora.limits import check_weights_fit, memory_limit, memory_limits
from vlora.recipe import MemorySection, ModelSection


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
    """Half of the memory limit, and never more than MLX's own limit."""
    own = cache_limit()
    with memory_limits(MemorySection(limit_gb=0.01)):
        assert cache_limit() == min(own, 5 * 10**6)


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
    started = next(run)
    inside = memory_limit()
    run.close()

    assert started.head is None  # type: ignore[union-attr]
    assert inside == 4 * 10**9
    assert (memory_limit(), cache_limit()) == before


@pytest.mark.parametrize("family", ["idefics3", "dots_ocr", "molmo"])
def test_a_head_that_falls_back_says_so(family: str) -> None:
    """A family whose head cannot run apart from the layers says how it runs, and why."""
    backbone, _ = prepare(build(FAMILIES[family]), describe_family(family), ModelSection(path=family))
    assert "at all supervised tokens of a batch at once" in (backbone.describe_head() or "")
    backbone.head = None
    assert "at all tokens" in (backbone.describe_head() or "")
