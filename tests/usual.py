"""Which families the usual run tries where every family has the same proof; the others are tried with `-m slow`."""

from collections.abc import Iterable
from typing import Any

import pytest

USUAL = frozenset(
    {
        "deepseek_vl_v2",  # experts; images in tiles
        "gemma3",  # layers that see a window
        "internvl",  # tiles that are joined
        "lfm2_vl",  # convolutions beside attention
        "llava",  # nothing of its own but the merging
        "mllama",  # cross-attention
        "paligemma",  # a prompt that sees itself whole
        "pixtral",  # images of any size
        "qwen2_vl",  # a grid, and positions along three axes
        "qwen3_vl",  # features in deeper layers
        "qwen3_vl_moe",  # the same with experts
    }
)
"""Families that differ in what is computed for them, and are small."""

PROVED = frozenset({"deepseek_vl_v2", "llava", "mllama", "pixtral"})
"""Those of them that the usual run proves on tiny models (tests/models/families/test_registry.py)."""


def usual(families: Iterable[str]) -> list[Any]:
    """Give the families as parameters of a test, those that the usual run leaves out with their marker."""
    return _marked(families, USUAL)


def usual_unproved(families: Iterable[str]) -> list[Any]:
    """Give them likewise for what is a check of tests/prove.py, too: those that have just passed it are left out."""
    return _marked(families, USUAL - PROVED)


def _marked(families: Iterable[str], unmarked: frozenset[str]) -> list[Any]:
    return [family if family in unmarked else pytest.param(family, marks=pytest.mark.slow) for family in families]
