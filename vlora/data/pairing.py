"""How many examples rows with preferences become. Pure, but for reading the first rows."""

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


def count_examples(recipe: Recipe, rows: RowDataset) -> int:
    """Count the examples of a row: one for each of its answers, twice as many where a loss needs mismatched ones."""
    objective = recipe.train.objective
    if objective not in LOSSES:
        return 1
    is_paired = objective not in UNPAIRED or any(sample.rejected for sample in rows.first_samples())
    return (2 if is_paired else 1) * (2 if needs_mismatched(recipe) else 1)
