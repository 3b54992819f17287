"""What public functions are given by mistake: the error names the function, what was found, and what to give."""

import pytest

from vlora.arguments import expect_at_least, expect_type


def test_another_type_is_refused() -> None:
    """Types that are taken pass in silence, also one of several."""
    expect_type({}, dict, "make", "give a dict")
    expect_type("a", (str, bytes), "make", "give a text")
    with pytest.raises(TypeError, match=r"^make: found a value of type list; give a dict$"):
        expect_type([], dict, "make", "give a dict")


@pytest.mark.parametrize("value", [0.5, -1.0, float("nan")])
def test_a_number_that_is_too_small_is_refused(value: float) -> None:
    """And one that is none; the least one passes."""
    expect_at_least(1, 1, "make, batch_size")
    with pytest.raises(ValueError, match=rf"^make, batch_size: found {value}; give 1 or more$"):
        expect_at_least(value, 1, "make, batch_size")
