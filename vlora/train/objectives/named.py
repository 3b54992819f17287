"""Objectives by their names in a recipe."""

from .objective import LossFn, Objective
from .sft import loss_fn

OBJECTIVES: dict[str, LossFn | Objective] = {"sft": loss_fn}
"""Those that `train.objective` may name."""
