"""How many examples rows with preferences become. Pure, but for reading the first rows."""

from ..errors import RecipeError
from ..recipe.preference import LOSSES, UNPAIRED, find_losses
from ..recipe.schema import Recipe
from .format.samples import Preferences
from .rows import RowDataset


def find_preferences(recipe: Recipe) -> Preferences | None:
    """Say what the rows of a recipe have beside one answer."""
    objective = recipe.train.objective
    if objective not in LOSSES:
        return None
    return "marks" if objective in UNPAIRED else "pairs"


def needs_mismatched(recipe: Recipe) -> bool:
    """Whether a recipe's loss estimates a divergence from answers to other rows' questions."""
    objective = recipe.train.objective
    return objective in UNPAIRED and "kto" in find_losses(objective, recipe.preference)


def refuse_alone(recipe: Recipe, rows: RowDataset) -> None:
    """Refuse a row that is the only one where a loss estimates a divergence from answers to other rows' questions.

    Raises:
        RecipeError: It is.
    """
    if len(rows) == 1 and needs_mismatched(recipe):
        msg = (
            f"train.objective: found 'kto' and {rows.name} has 1 row, whose divergence would be estimated from answers "
            "to others' questions; give 2 or more, or preference.loss = ['apo_zero_unpaired']"
        )
        raise RecipeError(msg)


def count_examples(recipe: Recipe, rows: RowDataset) -> int:
    """Count the examples of a row: one for each of its answers, twice as many where a loss needs mismatched ones."""
    objective = recipe.train.objective
    if objective not in LOSSES:
        return 1
    is_paired = objective not in UNPAIRED or any(sample.rejected for sample in rows.first_samples())
    return (2 if is_paired else 1) * (2 if needs_mismatched(recipe) else 1)
