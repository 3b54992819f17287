"""Recognizes errors that say that there is too little memory, or that an array is too large for MLX. Pure."""

import re

from ..errors import VloraError

OUT_OF_MEMORY = (
    "unable to allocate",
    "out of memory",
    "outofmemory",
    "insufficient memory",
    "attempting to allocate",
    "[metal::malloc] resource limit",
    "alloc_failed",
)
"""Words, in lower case, that only errors about memory have. MLX raises `RuntimeError` for all of its own:

- its allocators (mlx/backend/cuda/allocator.cpp, mlx/backend/metal/allocator.cpp): "[malloc] Unable to allocate 12
  bytes.", "[metal::malloc] Attempting to allocate 12 bytes which is greater than ...", "[metal::malloc] Resource limit
  (12) exceeded.";
- CUDA: "cudaMallocAsync(&data, size, stream) failed: out of memory", and the same when a graph is made;
- cuDNN: "CUDNN_STATUS_ALLOC_FAILED";
- Metal, when a command buffer is over: "[METAL] Command buffer execution failed: Insufficient Memory
  (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)."

On a CPU MLX does not check its allocations (mlx/backend/no_gpu/allocator.cpp): the process ends with a segmentation
fault, or the system kills it."""


LARGEST_DIMENSION = 2**31 - 1
"""Entries of one dimension of an array: MLX counts them in 32 bits."""


TOO_LARGE = re.compile(
    r"(?:dimension|value) (?P<found>\d+) is outside the supported range \[-2147483648, 2147483647\]"
    r"|cannot reshape array of size (?P<size>\d+) into shape \(-\d{7,}\)"
    r"|\[arange\] maximum size exceeded|slice indices must be 32-bit integers|more than the uint32 output can index",
    re.IGNORECASE,
)
"""What MLX 0.32.4 says of a dimension with more entries, tried with every operation that makes or joins dimensions:

- reshape, flatten, concatenate, repeat, tile, pad, cumsum, argmax: "[reshape] Shape dimension 2717908992 is outside the
  supported range [-2147483648, 2147483647]. MLX currently uses 32-bit integers for shape dimensions.", an
  `OverflowError`; zeros, broadcast_to and random numbers begin with "Integer value" instead;
- sort: "[reshape] Cannot reshape array of size 2147483648 into shape (-2147483648).", a `ValueError`, like the rest.

It says "std::bad_cast" where a shape's own number is too large in Python; that may mean anything, and is not read."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of MLX, of a library or of Python says that an allocation failed or an array is too large."""
    text = str(error).lower()
    is_lacking = isinstance(error, RuntimeError) and any(words in text for words in OUT_OF_MEMORY)
    return is_lacking or isinstance(error, MemoryError) or too_large_dimension(error) > 0


def too_large_dimension(error: BaseException) -> int:
    """Return the size of the dimension that MLX refused as too large; 0 for any other error.

    MLX does not always say the number: then it is the smallest one that it refuses.
    """
    if not isinstance(error, (OverflowError, ValueError)) or isinstance(error, VloraError):
        return 0
    found = TOO_LARGE.search(str(error))
    return 0 if found is None else max(int(found["found"] or found["size"] or 0), LARGEST_DIMENSION + 1)
