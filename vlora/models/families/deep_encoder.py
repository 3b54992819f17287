"""The towers of DeepSeek-OCR and Unlimited-OCR: SAM, and CLIP behind it or, in DeepSeek-OCR-2, a reader of queries.

Files and lines are those of mlx-vlm 0.7.10.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn

from ..forward.corrections import approximate_gelu
from ..forward.overrides import override_attributes, replacing_in_files
from ..forward.resize import resize_bicubic_smoothly, resize_linear

RelativePositions = Callable[[int, int, mx.array], mx.array]


@contextmanager
def match_reference_deep_encoder(model: nn.Module) -> Iterator[None]:
    """Correct the activation and the positions of CLIP, and the relative positions of SAM.

    mlx-vlm has the exact activation, where CLIP's is the quick one (deepseekocr/vision.py:56), and resizes positions
    without smoothing (:132), as it has to for tiles, which are smaller than the whole image.
    """
    with (
        approximate_gelu("fast", model.vision_model),
        override_attributes(model.vision_model.embeddings, _get_abs_pos=resize_positions),
        match_reference_sam(model),
    ):
        yield


@contextmanager
def match_reference_sam(model: nn.Module) -> Iterator[None]:
    """Correct SAM's relative positions, which layers that see the whole of a tile resize.

    mlx-vlm resizes them from the edges of their places instead of the middles (deepseekocr/sam.py:431).
    """
    with replacing_in_files(model.sam_model, "get_rel_pos", _resized_from_middles):
        yield


def resize_positions(table: mx.array, n_tokens: int) -> mx.array:
    """Resize CLIP's table of positions, f[1, 1 + P, D], for a square image of that many tokens with its first."""
    grid = table[0, 1:]
    n_from, n_to = math.isqrt(grid.shape[0]), math.isqrt(n_tokens - 1)
    if n_from == n_to:
        return table
    resized = resize_bicubic_smoothly(grid.reshape(n_from, n_from, -1), (n_to, n_to))
    return mx.concatenate([table[0, :1], resized.flatten(0, 1)])[None]


def _resized_from_middles(own: RelativePositions) -> RelativePositions:
    def find(n_queries: int, n_keys: int, table: mx.array) -> mx.array:
        length = 2 * max(n_queries, n_keys) - 1
        return own(n_queries, n_keys, table if table.shape[0] == length else resize_linear(table, length))

    return find
