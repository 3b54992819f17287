"""The section for preferences: the losses of each objective."""

import pytest

from tests.recipe.reading import problems_of
from vlora import parse_recipe
from vlora.recipe.preference import LOSSES, PreferenceSection, find_losses


@pytest.mark.parametrize("objective", LOSSES)
def test_without_a_loss_the_first_is_taken(objective: str) -> None:
    """Each objective has one of its own."""
    assert find_losses(objective, PreferenceSection()) == {LOSSES[objective][0]: 1.0}


def test_several_losses_have_weights() -> None:
    """In their order; MPO's."""
    keys = {"preference.loss": ["sigmoid", "bco_pair", "sft"], "preference.weights": [0.8, 0.2, 1]}
    recipe = parse_recipe("", {"data.path": "-", "train.objective": "dpo", **keys})

    assert find_losses("dpo", recipe.preference) == {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}


@pytest.mark.parametrize(
    ("key", "value"),
    [("beta", 0), ("label_smoothing", 0.5), ("weights", [-1]), ("gamma", -0.1), ("loss", "sigmoid")],
)
def test_values_out_of_range(key: str, value: object) -> None:
    """Each says so under its own name."""
    (problem,) = problems_of("", {"data.path": "-", "train.objective": "dpo", f"preference.{key}": value})

    assert problem.startswith(f"preference.{key}: ")
