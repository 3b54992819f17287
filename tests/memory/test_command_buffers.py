"""How large command buffers are: by MLX, by vlora, by the environment, by the recipe."""

import pytest

from vlora.memory.command_buffers import (
    CUDA,
    CUDA_OTHERS,
    DIVIDED_MB,
    LARGE_MB,
    LARGE_OPERATIONS,
    MB_VARIABLE,
    METAL,
    METAL_OTHERS,
    OPS_VARIABLE,
    BufferLimits,
    default_max_mb_per_buffer,
    default_max_operations,
    find_buffer_limits,
    own_buffer_limits,
)

H100: dict[str, str | int] = {
    "compute_capability_major": 9,
    "compute_capability_minor": 0,
    "total_memory": 80 * 2**30,
}
SPARK: dict[str, str | int] = {**H100, "compute_capability_major": 12, "compute_capability_minor": 1}
ULTRA: dict[str, str | int] = {"architecture": "applegpu_g15d"}


def test_every_device_has_limits_of_mlx() -> None:
    """By compute capability, or by the last letter of a Mac's architecture; unknown ones have the common limits."""
    assert own_buffer_limits(H100) == CUDA[9, 0]
    assert own_buffer_limits(SPARK) == CUDA[12, 1]
    assert own_buffer_limits({**H100, "compute_capability_major": 7}) == CUDA_OTHERS
    assert own_buffer_limits(ULTRA) == METAL["d"]
    assert own_buffer_limits({"architecture": "applegpu_g16g"}) == METAL_OTHERS
    assert own_buffer_limits({}) == METAL_OTHERS


def test_only_the_largest_are_lowered() -> None:
    """In proportion to the memory, and never above what MLX has itself."""
    assert default_max_mb_per_buffer(H100) == 400
    assert default_max_mb_per_buffer({**H100, "total_memory": 40 * 2**30}) == 200
    assert default_max_mb_per_buffer({**H100, "total_memory": 2**40}) is None
    assert default_max_mb_per_buffer(SPARK) is None
    assert default_max_mb_per_buffer(ULTRA) is None


def test_divided_weights_have_smaller_ones() -> None:
    """On every card of NVIDIA whose own are larger, whatever its memory; the recipe and the environment come first."""
    for card in (H100, {**H100, "total_memory": 2**40}, {**H100, "total_memory": 0}):
        assert default_max_mb_per_buffer(card, is_divided=True) == DIVIDED_MB
    for device in (SPARK, ULTRA):
        assert default_max_mb_per_buffer(device, is_divided=True) is None
    # Never larger than those of whole weights.
    assert default_max_mb_per_buffer({**H100, "total_memory": 6 * 2**30}, is_divided=True) == 30
    assert find_buffer_limits(H100, None, {}, is_divided=True).n_mb == DIVIDED_MB
    assert find_buffer_limits(SPARK, None, {}, is_divided=True) == CUDA[12, 1]
    assert find_buffer_limits(H100, 50, {}, is_divided=True).n_mb == 50
    assert find_buffer_limits(H100, None, {MB_VARIABLE: "300"}, is_divided=True).n_mb == 300


def test_the_largest_take_more_operations() -> None:
    """Where MLX's own end by their operations, and the limit in "MB" keeps them small."""
    assert default_max_operations(H100) == LARGE_OPERATIONS
    for device in (SPARK, ULTRA, {}):
        assert default_max_operations(device) is None


def test_the_recipe_comes_before_the_environment() -> None:
    """Then comes vlora's own limit, then MLX's."""
    environment = {MB_VARIABLE: "300", OPS_VARIABLE: "7"}
    large = {**H100, "total_memory": 2**40}

    assert find_buffer_limits(H100, 50, environment) == BufferLimits(n_operations=7, n_mb=50)
    assert find_buffer_limits(H100, None, environment) == BufferLimits(n_operations=7, n_mb=300)
    assert find_buffer_limits(H100, None, {}) == BufferLimits(n_operations=LARGE_OPERATIONS, n_mb=400)
    assert find_buffer_limits(large, None, {}) == BufferLimits(n_operations=LARGE_OPERATIONS, n_mb=LARGE_MB)


@pytest.mark.parametrize(("text", "number"), [("12", 12), (" 12", 12), ("12 MB", 12), ("-1", -1), ("many", 0), ("", 0)])
def test_variables_are_read_as_mlx_reads_them(text: str, number: int) -> None:
    """A number and whatever follows it, as C's `atoi` does."""
    assert find_buffer_limits(ULTRA, None, {MB_VARIABLE: text}).n_mb == number
