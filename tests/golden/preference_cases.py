"""What is compared with TRL's trainer of preferences, as data for both sides: it needs neither MLX nor torch."""

from collections.abc import Mapping
from typing import Any

from .cases import ROWS

FAMILIES = ("qwen2_vl", "qwen3_vl", "llava", "gemma3", "idefics3")
STEPS, PAIRS_OF_A_STEP = 10, 2
LEARNING_RATE, LOWER_RATES = 0.5, {"ipo": 0.005}
"""Of the steps, and of losses whose gradients are larger by far."""
WORSE = {
    "one": "two hats",
    "tall": "no",
    "other": "The sky is yellow.",
    "longer": "three",
    "wide": "a red square and a yellow house",
    "text": "There are three of them.",
}
"""By the name of a row of `cases.ROWS`, whose own answer is the better one: another answer."""

LOSSES: Mapping[str, dict[str, Any]] = {
    "sigmoid": {},
    "ipo": {},
    "hinge": {},
    "robust": {"label_smoothing": 0.1},
    "apo_zero": {},
    "bco_pair": {},
    "sigmoid_norm": {},
}
"""Losses of DPO with what is set for them; beta is 0.1."""

THOROUGH = "qwen3_vl"
"""The family that all losses are compared with; the others are with the first one."""

IMAGES = tuple(name for name in WORSE if ROWS[name].sizes)
"""Rows that have an image: TRL's trainer of pictures reads no others."""
