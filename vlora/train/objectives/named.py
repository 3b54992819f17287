"""Objectives by their names in a recipe."""

from ...recipe.preference import LOSSES, PreferenceSection
from .objective import LossFn, Objective
from .preference import make_preference_objective
from .sft import loss_fn

OBJECTIVES: dict[str, LossFn | Objective] = {"sft": loss_fn}
"""Those that `train.objective` may name, but for those over preferences."""


def find_objective(name: str, section: PreferenceSection) -> LossFn | Objective:
    """Give the objective of a recipe.

    Args:
        name: `train.objective`.
        section: What it says of preferences.
    """
    return make_preference_objective(name, section) if name in LOSSES else OBJECTIVES[name]
