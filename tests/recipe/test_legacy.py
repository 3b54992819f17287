"""The older script's options as overrides of a recipe."""

from vlora.recipe.legacy import overrides_from


def test_overrides_are_pure() -> None:
    """None leaves the recipe's value; what is given is not changed."""
    values = {"dataset": "d", "iters": None, "image_resize_shape": (3, 4)}

    assert overrides_from(values) == {"data.path": "d", "data.image_resize_shape": [3, 4]}
    assert values == {"dataset": "d", "iters": None, "image_resize_shape": (3, 4)}
