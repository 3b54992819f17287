"""Objectives by their names in a recipe."""

from collections.abc import Mapping

from .objective import LossFn, Objective
from .sft import loss_fn

OBJECTIVES: Mapping[str, LossFn | Objective] = {"sft": loss_fn}
"""Those that `train.objective` may name."""
