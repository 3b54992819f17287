"""Strides are those that numpy gives the same arrays, and say what numpy's flags say."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vlora.estimate.strides import is_dense, is_matrix, is_row_by_row, reshaped_strides, row_strides

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


def strides_of(array: np.ndarray) -> tuple[int, ...]:
    """Give an array's strides in elements."""
    return tuple(stride // array.itemsize for stride in array.strides)


@st.composite
def turned(draw: st.DrawFn) -> np.ndarray:
    """Draw an array whose dimensions are in any order."""
    shape = draw(shapes)
    array = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    return array.transpose(draw(st.permutations(range(len(shape)))))


@given(shapes)
def test_new_arrays_lie_row_by_row(shape: tuple[int, ...]) -> None:
    """The last dimension changes fastest."""
    strides = row_strides(shape)

    assert strides == strides_of(np.empty(shape, dtype=np.int32))
    assert is_row_by_row(shape, strides)
    assert is_dense(shape, strides)


@given(turned())
def test_a_turned_array_is_dense_and_not_row_by_row(array: np.ndarray) -> None:
    """Every element of its memory is one of its own; with a gap it is not."""
    assert is_dense(array.shape, strides_of(array))
    assert is_row_by_row(array.shape, strides_of(array)) == array.flags.c_contiguous
    assert is_dense((2, 3), (6, 1)) is False


@given(turned(), st.data())
def test_what_keeps_its_data_in_another_shape(array: np.ndarray, data: st.DataObject) -> None:
    """Strides in another shape read the same elements; there are some where numpy needs no copy."""
    shape = data.draw(st.permutations(array.shape).map(tuple) | st.just((array.size,)))
    strides = reshaped_strides(array.shape, strides_of(array), shape)
    view = array.reshape(shape)

    assert (strides is not None) == np.shares_memory(view, array)
    if strides is not None:
        found = np.lib.stride_tricks.as_strided(array, shape, [stride * array.itemsize for stride in strides])
        np.testing.assert_array_equal(found, view)


def test_matrices() -> None:
    """Rows, or columns, without gaps."""
    assert is_matrix((2, 3, 4), (12, 4, 1))
    assert is_matrix((2, 4, 3), (12, 1, 4))
    assert not is_matrix((2, 3, 4), (4, 8, 1))
