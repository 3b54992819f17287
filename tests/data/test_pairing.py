"""How many examples rows with preferences become."""

from typing import Any

import pytest

from vlora import parse_recipe
from vlora.data.opening import wrap_rows
from vlora.data.pairing import count_examples, needs_mismatched

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
