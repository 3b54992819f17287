"""Images that stand in a batch more than once: which one is computed, and where it is shown."""

import mlx.core as mx

from vlora.models.backbone.same_images import add_up, find_owners, find_shown


def test_the_first_of_the_same_images_is_computed() -> None:
    """Images are the same if their keys are; where one has none, all are taken for different ones."""
    assert find_owners(["a", "b", "a", "c", "b"], 5) == [0, 1, 0, 3, 1]
    assert find_owners(["a", "a"], 3) == [0, 1, 2]
    assert find_owners([], 0) == []


def test_the_places_of_each_image_that_is_computed() -> None:
    """Every place is that of one image, so that gradients of all places reach it."""
    assert find_shown([0, 1, 0, 3, 1]) == {0: [0, 2], 1: [1, 4], 3: [3]}


def test_arrays_are_added_up() -> None:
    """A single one is given as it is, without an operation."""
    one = mx.array([1.0, 2.0])

    assert add_up([one]) is one
    assert add_up([one, one, one]).tolist() == [3.0, 6.0]
