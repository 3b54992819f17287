"""How MLX lays arrays out in memory: strides, in elements, and what they say of an array. Pure."""

import math
from collections.abc import Sequence


def row_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a row-contiguous array."""
    return tuple(math.prod(shape[place + 1 :]) for place in range(len(shape)))


def is_row_by_row(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether an array is row-contiguous."""
    pairs = zip(shape, strides, row_strides(shape), strict=True)
    return all(size == 1 or stride == expected for size, stride, expected in pairs)


def is_matrix(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether the last two dimensions are row-contiguous or column-contiguous."""
    if len(shape) == 1:
        return strides[0] == 1
    (n_rows, n_columns), (down, across) = shape[-2:], strides[-2:]
    by_rows = across == 1 and (down == n_columns or n_rows == 1)
    by_columns = down == 1 and (across == n_rows or n_columns == 1)
    return by_rows or by_columns


def is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether an array is contiguous in memory, in any order of its dimensions."""
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(strides, shape, strict=True) if size > 1):
        if stride != expected:
            return False
        expected *= size
    return True


def reshaped_strides(shape: Sequence[int], strides: Sequence[int], result: Sequence[int]) -> tuple[int, ...] | None:
    """Strides of the same data in another shape; None if it has to be copied."""
    if is_row_by_row(shape, strides) or 0 in result:
        return row_strides(result)
    # Adjacent dimensions without a gap are merged.
    runs: list[list[int]] = []
    for size, stride in zip(shape, strides, strict=True):
        if size == 1:
            continue
        if runs and runs[-1][1] == stride * size:
            runs[-1] = [runs[-1][0] * size, stride]
        else:
            runs.append([size, stride])
    found: list[int] = []
    left = [list(run) for run in runs]
    for size in result:
        if size == 1:
            found.append(0)
            continue
        if not left or left[0][0] % size:
            return None
        left[0][0] //= size
        found.append(left[0][0] * left[0][1])
        if left[0][0] == 1:
            left.pop(0)
    return tuple(found)
