"""Corrections that several families share, each only while it is entered."""

import mlx.core as mx
import pytest
from mlx import nn

from vlora.models.forward.corrections import (
    approximate_gelu,
    forget_attributes,
    sliced_splits,
    undifferentiated_indices,
)


@pytest.mark.parametrize(("parts", "axis"), [(3, -1), ([1, 3], -1), (2, 0), ([1], 0)])
def test_slices_are_splits(parts: int | list[int], axis: int) -> None:
    """Of a number of parts or of places, along any axis."""
    array, split = mx.arange(24).reshape(4, 6), mx.split
    expected = split(array, parts, axis=axis)
    with sliced_splits(nn.Module()):
        found = mx.split(array, parts, axis=axis)

    assert [part.tolist() for part in found] == [part.tolist() for part in expected]
    assert mx.split is split


def test_a_choice_has_no_gradient() -> None:
    """What was chosen has its own; the scores by which it was chosen have none by way of their order."""

    def chosen(scores: mx.array) -> mx.array:
        return mx.take_along_axis(scores, mx.argsort(scores, axis=-1)[:, :1] + 0, axis=-1).sum()

    with undifferentiated_indices(nn.Module()):
        gradient = mx.grad(chosen)(mx.array([[3.0, 1.0, 2.0]]))

    assert gradient.tolist() == [[0, 1, 0]]


def test_activations_are_as_they_were_afterwards() -> None:
    """The error functions of a part are approximated only meanwhile."""
    part, x = nn.Sequential(nn.GELU(), nn.ReLU()), mx.array([0.7])
    exact = part(x)
    with approximate_gelu("fast", part):
        fast = part(x)

    assert not mx.array_equal(exact, fast)
    assert mx.array_equal(part(x), exact)


def test_what_was_made_is_forgotten() -> None:
    """Before and afterwards; other attributes stay."""
    module = nn.Linear(2, 2)
    module.made, module.kept = mx.array(1), mx.array(2)
    with forget_attributes("made", "missing")(module):
        before = module.made
        module.made = mx.array(3)

    assert before is None
    assert module.made is None
    assert module.kept.item() == 2
