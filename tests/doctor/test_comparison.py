"""Comparisons with references: rounding passes, anything else is named with its size."""

import mlx.core as mx
import numpy as np
import pytest

from vlora.doctor.comparison import bounded_difference, compare, describe_shares, normal, overall_difference
from vlora.errors import CheckError


def test_another_shape_is_a_difference() -> None:
    """A result of another shape is refused even where it would broadcast."""
    with pytest.raises(CheckError, match=r"a sum: found the shape \(1,\), expected \(3,\)"):
        bounded_difference("a sum", mx.ones(1), np.ones(3), 1.0)


@pytest.mark.parametrize("wrong", [1.02, float("nan")])
def test_a_difference_is_bounded(wrong: float) -> None:
    """The bound is a share of the reference's size; what is not a number is beyond it."""
    assert bounded_difference("a sum", mx.ones(3), np.ones(3), 0.0) == 0.0
    with pytest.raises(CheckError, match=r"a sum: off by .* of its size, 1e-02 at most is rounding"):
        bounded_difference("a sum", mx.full(3, wrong), np.ones(3), 1e-2)


def test_both_types_are_compared() -> None:
    """A function and its gradient hold in float32 and in bfloat16, each with its own difference."""
    found = compare(mx.square, lambda x, towards: [x * x, 2 * x * towards], [normal(0, 8)], normal(1, 8))

    assert set(found) == {"float32", "bfloat16"}
    assert found["float32"] < 1e-6 < found["bfloat16"]
    assert describe_shares([{"float32": 1e-7}, {"float32": 3e-7}]) == "off by 3.0e-07 (float32)"


def test_small_arrays_do_not_count_alone() -> None:
    """Arrays are compared together: one that is little but rounding changes little."""
    expected = {"large": mx.full(4, 10.0), "rounding": mx.full(4, 1e-9)}
    found = {"large": mx.full(4, 10.0), "rounding": mx.full(4, 3e-9)}

    assert overall_difference(found, expected) < 1e-9
