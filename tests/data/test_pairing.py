"""How many examples rows with preferences become."""

from typing import Any

import pytest

from vlora import parse_recipe
from vlora.data.opening import wrap_rows
from vlora.data.pairing import count_examples, needs_mismatched, refuse_alone
from vlora.errors import RecipeError

PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}
MARKED = {"prompt": "a", "completion": "b", "label": True}


@pytest.mark.parametrize(
    ("objective", "loss", "row", "expected"),
    [
        ("sft", [], {"question": "a", "answer": "b"}, 1),
        ("dpo", [], PAIR, 2),
        ("orpo", [], PAIR, 2),
        ("kto", [], MARKED, 2),
        ("kto", [], PAIR, 4),
        ("kto", ["apo_zero_unpaired"], MARKED, 1),
        ("kto", ["apo_zero_unpaired"], PAIR, 2),
    ],
)
def test_examples_of_a_row(objective: str, loss: list[str], row: dict[str, Any], expected: int) -> None:
    """Two answers have one each, and as many again are mismatched where the loss estimates a divergence."""
    recipe = parse_recipe("", {"data.path": "-", "train.objective": objective, "preference.loss": loss})
    preferences = {"sft": None, "kto": "marks"}.get(objective, "pairs")
    rows, _ = wrap_rows(recipe.data, [row], preferences=preferences)  # type: ignore[arg-type]

    assert count_examples(recipe, rows) == expected
    assert needs_mismatched(recipe) == (objective == "kto" and not loss)


def test_a_single_row_has_no_other_to_be_compared_with() -> None:
    """As a microbatch of one row is refused; losses without a divergence take it."""
    for keys in ({"train.objective": "kto"}, {"train.objective": "kto", "preference.loss": ["apo_zero_unpaired"]}):
        recipe = parse_recipe("", {"data.path": "-", **keys})
        for n_rows in (1, 2):
            rows, _ = wrap_rows(recipe.data, [MARKED] * n_rows, preferences="marks")
            if len(keys) == 1 and n_rows == 1:
                with pytest.raises(RecipeError, match=r"^train\.objective: found 'kto' and rows has 1 row, whose"):
                    refuse_alone(recipe, rows)
            else:
                refuse_alone(recipe, rows)
