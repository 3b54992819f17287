"""MiniCPM-V 4.6 and 4.7. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping
from contextlib import AbstractContextManager

import mlx.nn as nn

from ..forward.corrections import approximate_gelu
from .family import STATES, Family, Forward


def exact_merger(model: nn.Module) -> AbstractContextManager[None]:
    """Use the exact activation in the merger behind the tower.

    mlx-vlm asks for `GELU(approx="precise")` (minicpmv4_6/minicpmv4_6.py:154), which is MLX's name of the
    approximation by tanh. That is what tower and window merger were trained with, and the last merger was not.
    """
    return approximate_gelu("none", model.merger)


_FORWARD = Forward(embed_overrides=exact_merger, equal_prompts=STATES)
_DIFFERENCE = "the merger's activation is approximated (minicpmv4_6/minicpmv4_6.py:154)"

FAMILIES: Mapping[str, Family] = {
    "minicpmv4_6": Family(forward=_FORWARD, upstream_differs=_DIFFERENCE),
    "minicpmv4_7": Family(forward=_FORWARD, upstream_differs=_DIFFERENCE),
}
