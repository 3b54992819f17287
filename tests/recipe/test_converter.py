"""Nested dicts to sections: nothing is coerced, and a slip comes with what was meant."""

import pytest

from tests.recipe.reading import MINIMAL, problems_of
from vlora import parse_recipe
from vlora.errors import RecipeError
from vlora.recipe.parse import structure_recipe


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("[train]\nitres = 3", "train.itres: unknown key; did you mean train.iters?"),
        ("[train]\nlearning_rate = 1.0", "train.learning_rate: unknown key; did you mean optim.learning_rate?"),
        ("[model]\nrank = 4", "model.rank: unknown key; did you mean lora.rank?"),
        ("[optimizer]\nname = 'adam'", "optimizer: unknown section; did you mean optim?"),
        ("[optim]\nschedule = 'cosin'", "optim.schedule: found 'cosin', expected one of"),
        ("[optim]\nschedule = 'cosin'", "did you mean 'cosine'?"),
        ("[zzz]\nqqq = 1", "zzz: unknown section; known sections: model, data, lora,"),
        ("[eval]\nzzzzzzz = 1", "eval.zzzzzzz: unknown key; known keys: eval.answer_rows, eval.answer_every"),
        ("lora = 3", "lora: found 3, expected a table of keys"),
    ],
)
def test_nearest_name(line: str, hint: str) -> None:
    """A misspelt name comes with the one that was meant."""
    (problem,) = problems_of(f"{line}\n{MINIMAL}" if "=" in line.splitlines()[0] else f"{MINIMAL}{line}")

    assert hint in problem


def test_a_long_table_is_repeated_in_part() -> None:
    """What is found is cut where it is longer than a sentence bears."""
    with pytest.raises(RecipeError) as caught:
        structure_recipe({"data": {"path": "a", "columns": {f"column_{n}": n for n in range(300)}}})

    assert "data.columns: found {'column_0': 0, " in str(caught.value)
    assert len(str(caught.value)) < 300


def test_integers_are_numbers() -> None:
    """Where a number is expected, an integer is one."""
    found = parse_recipe(MINIMAL, {"lora.alpha": 32}).lora.alpha

    assert found == 32.0
    assert type(found) is float
