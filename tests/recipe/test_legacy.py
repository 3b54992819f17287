"""Options of mlx-vlm's older script as keys of a recipe."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora.errors import RecipeError
from vlora.recipe.legacy import OPTIONS, idle_options, overrides_from
from vlora.recipe.parse import all_keys, parse_recipe


def test_overrides_are_pure() -> None:
    """None leaves the recipe's value; what is given is not changed."""
    values = {"dataset": "d", "iters": None, "image_resize_shape": (3, 4)}

    assert overrides_from(values) == {"data.path": "d", "data.image_resize_shape": [3, 4]}
    assert values == {"dataset": "d", "iters": None, "image_resize_shape": (3, 4)}


def test_every_option_sets_a_key() -> None:
    """Options set different keys, all of them keys of a recipe."""
    keys = [option.key for option in OPTIONS]

    assert len(set(keys)) == len(keys)
    assert set(keys) <= set(all_keys())


@given(st.dictionaries(st.sampled_from([option.name for option in OPTIONS]), st.none() | st.integers(1, 9)))
def test_overrides_are_the_given_values(values: dict[str, int | None]) -> None:
    """Every value that is given is its key's, but iters beside epochs."""
    keys = {option.name: option.key for option in OPTIONS}
    expected = {keys[name]: value for name, value in values.items() if value is not None}
    if values.get("epochs") is not None:
        expected.pop("train.iters", None)

    assert overrides_from(values) == expected


def test_unknown_options_are_refused() -> None:
    """All unknown names are reported in one error."""
    with pytest.raises(RecipeError, match=r"^batchsize, rank: no such option; known are .*batch_size"):
        overrides_from({"rank": 8, "batchsize": 4})


def test_options_without_effect_are_named() -> None:
    """How often to validate is of no use where nothing is held out; it is with rows that the recipe names."""
    values = {"dataset": "rows.jsonl", "steps_per_eval": 5, "iters": 3}
    held_out = {"valid_fraction": 0.2}

    assert [
        note.partition(" has no effect")[0] for note in idle_options(values, parse_recipe("", {"data.path": "r"}))
    ] == ["--steps-per-eval"]
    assert not list(idle_options({"dataset": "rows.jsonl"}, parse_recipe("", {"data.path": "r"})))
    assert not list(idle_options(values | held_out, parse_recipe("", overrides_from(values | held_out))))
