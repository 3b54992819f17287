"""Errors of MLX that say that there is too little memory, or that an array is too large: recognized on every device."""

from typing import TYPE_CHECKING

import mlx.core as mx
import pytest

from vlora.errors import OutOfMemoryError, VloraError
from vlora.memory.limits import naming_shortage
from vlora.memory.shortage import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable

MALLOC = "[malloc] Unable to allocate 21474836480 bytes."


METAL = "[METAL] Command buffer execution failed"


TEXTS = [
    MALLOC,
    "[metal::malloc] Attempting to allocate 9 bytes which is greater than the maximum allowed buffer size of 1 bytes.",
    "[metal::malloc] Resource limit (499000) exceeded.",
    "cudaMallocAsync(&data, size, stream) failed: out of memory",
    "cudaGraphInstantiate(&handle_, graph, nullptr, nullptr, 0) failed: out of memory",
    f"{METAL}: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory).",
    "cudnn failed: CUDNN_STATUS_ALLOC_FAILED",
]


OTHERS = [
    f"{METAL}: Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout).",
    "cublasLtMatmul failed with code: 14.",
    "[compile] Attempting to compile a function with uncaptured inputs is not allowed.",
    "cudaGraphLaunch(graph_exec, stream()) failed: an illegal memory access was encountered",
]


@pytest.mark.parametrize("text", TEXTS)
def test_recognized(text: str) -> None:
    """What MLX says on every device is recognized, and the error names what was computed."""
    with pytest.raises(OutOfMemoryError) as caught, naming_shortage("step 3"):
        raise RuntimeError(text)

    assert str(caught.value).startswith("step 3: out of memory (")
    assert caught.value.where == "step 3"
    assert not caught.value.is_host


@pytest.mark.parametrize("text", OTHERS)
def test_other_errors_stay_what_they_are(text: str) -> None:
    """No other error of MLX is taken for one about memory."""
    with pytest.raises(RuntimeError) as caught, naming_shortage("step 3"):
        raise RuntimeError(text)

    assert str(caught.value) == text
    assert not is_out_of_memory(ValueError(MALLOC))
    assert is_out_of_memory(MemoryError())


SHAPE = (
    "[reshape] Shape dimension 2717908992 is outside the supported range [-2147483648, 2147483647]. "
    "MLX currently uses 32-bit integers for shape dimensions."
)


def make_too_large(name: str) -> mx.array:
    """Let MLX refuse an array of more than 2^31 - 1 entries in a dimension, in one of the ways in which it does."""
    many = mx.broadcast_to(mx.zeros((1,)), (2**16, 2**15 + 1))
    half = mx.broadcast_to(mx.zeros((1,)), (2**30,))
    ways: dict[str, Callable[[], mx.array]] = {
        "reshape": lambda: many.reshape(-1),
        "flatten": many.flatten,
        "zeros": lambda: mx.zeros((2**31,)),
        "broadcast": lambda: mx.broadcast_to(half[:1], (2**31,)),
        "concatenate": lambda: mx.concatenate([half, half]),
        "repeat": lambda: mx.repeat(half, 2),
        "tile": lambda: mx.tile(half, 3),
        "pad": lambda: mx.pad(half, 2**30),
        "cumsum": lambda: mx.cumsum(many),
        "argmax": lambda: mx.argmax(many),
        "sort": lambda: mx.sort(many, axis=None),
        "arange": lambda: mx.arange(2**31 + 5),
        "slice": lambda: half[: 2**31],
        "random": lambda: mx.random.uniform(shape=(2**31,), key=mx.random.key(0)),
        "compiled": lambda: mx.compile(lambda x: x.reshape(-1))(many),
        "gradient": lambda: mx.grad(lambda x: x.reshape(-1).sum())(many),
    }
    return ways[name]()


@pytest.mark.parametrize(
    "name",
    [
        *("reshape", "flatten", "zeros", "broadcast", "concatenate", "repeat", "tile", "pad", "cumsum", "argmax"),
        *("sort", "arange", "slice", "random", "compiled", "gradient"),
    ],
)
def test_arrays_that_mlx_does_not_have(name: str) -> None:
    """Whatever refuses them, it is a batch that is too large; the error says so, and by how much."""
    with pytest.raises(OutOfMemoryError, match=r"^step 3: too large for MLX's arrays \(") as caught:  # noqa: SIM117
        with naming_shortage("step 3"):
            make_too_large(name)

    assert 2**31 <= caught.value.dimension < 2**32


@pytest.mark.parametrize(
    "words", ["[reshape] Cannot reshape array of size 10 into shape (-1,3).", "int too large to convert"]
)
def test_other_shapes_that_do_not_fit(words: str) -> None:
    """They are faults, and stay what they are."""
    for kind in (ValueError, OverflowError):
        with pytest.raises(kind), naming_shortage("step 3"):
            raise kind(words)
    assert not is_out_of_memory(VloraError(SHAPE))
