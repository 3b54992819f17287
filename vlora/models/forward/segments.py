"""Attention of packed rows, computed for each example apart: for it alone, examples get rows of their own. Pure.

Under a mask the scores of all pairs of places of a pack are computed, and those of two examples dropped: of sixteen
examples of one length fifteen sixteenths. Apart, attention is causal and needs no mask.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ...ops.buckets import SMALLEST_BUCKET, bucket_length
from ...ops.cuda_kernels import on_cuda
from ...ops.custom_vjp import custom_vjp
from .attention_masks import CAUSAL, TILE
from .lm_inputs import LMInputs
from .overrides import Attend, wrapping_attention

Span = tuple[int, int, int]
"""An example of a packed batch: (row, first place, places)."""

ROWS, PLACES = "segment_rows", "segment_places"
"""Inputs of a language model: i32[S, L], the flat place b T + t of each place of an example's own row, and i32[B, T],
the flat place s L + l of each place of the packed rows; -1 where there is none."""

MOST_SCORES = 0.75
"""Scores that are computed apart, over those of whole packs, from which on moving the examples is not worth it."""


class Apart(str):
    """Stands for the causal mask of packed rows: what mlx-vlm calls one, and where the examples are.

    It goes through a model's layers as their mask, so that layers that are recomputed in the backward pass have it too.

    Attributes:
        rows: `ROWS`.
        places: `PLACES`.
    """

    __slots__ = ("places", "rows")

    rows: mx.array
    places: mx.array

    def __new__(cls, rows: mx.array, places: mx.array) -> Self:
        """Make the mask."""
        mask = super().__new__(cls, CAUSAL)
        mask.rows, mask.places = rows, places
        return mask


def place_apart(spans: Sequence[Span], n_rows: int, length: int) -> dict[str, mx.array]:
    """Find where the examples of packed rows stand in rows of their own.

    Args:
        spans: Of all examples of the batch.
        n_rows: B.
        length: T.

    Returns:
        `ROWS` and `PLACES`; empty where examples are so few or so unequally long that a mask takes less.
    """
    width = bucket_length(max(count for _, _, count in spans), TILE if on_cuda() else SMALLEST_BUCKET)
    n_examples = _bucket_examples(len(spans))
    if n_examples * width**2 > MOST_SCORES * n_rows * length**2:
        return {}
    rows = np.full((n_examples, width), -1, dtype=np.int32)
    places = np.full(n_rows * length, -1, dtype=np.int32)
    for number, (row, start, count) in enumerate(spans):
        first = row * length + start
        rows[number, :count] = np.arange(first, first + count)
        places[first : first + count] = np.arange(number * width, number * width + count)
    return {ROWS: mx.array(rows), PLACES: mx.array(places.reshape(n_rows, length))}


def take_apart(fields: LMInputs) -> Apart | None:
    """Take `ROWS` and `PLACES` from a language model's inputs; None if it has none."""
    rows, places = fields.pop(ROWS, None), fields.pop(PLACES, None)
    return None if rows is None else Apart(rows, places)


def attending_apart(module: nn.Module) -> AbstractContextManager[None]:
    """Let attention compute each example apart where its mask says so."""
    return wrapping_attention(module, _attend_apart)


def count_causal(module: nn.Module, run: Callable[[], Any], n_places: int) -> int:
    """Count the calls of attention that are causal over whole rows, and nothing else, in a forward without packs.

    Args:
        module: The model whose layers call it.
        run: Runs it on rows of `n_places`.
        n_places: See above.
    """
    calls: list[bool] = []

    def counting(attend: Attend) -> Attend:
        def call(queries: mx.array, keys: mx.array, values: mx.array, *rest: Any, **named: Any) -> mx.array:
            cache, _, mask, sinks = _arguments(*rest, **named)
            is_whole = queries.shape[2] == keys.shape[2] == values.shape[2] == n_places
            calls.append(is_whole and cache is None and sinks is None and isinstance(mask, str) and mask == CAUSAL)
            return attend(queries, keys, values, *rest, **named)

        return call

    with wrapping_attention(module, counting):
        run()
    return sum(calls)


def _attend_apart(attend: Attend) -> Attend:
    def call(queries: mx.array, keys: mx.array, values: mx.array, *rest: Any, **named: Any) -> mx.array:
        cache, scale, mask, sinks = _arguments(*rest, **named)
        if not isinstance(mask, Apart):
            return attend(queries, keys, values, *rest, **named)
        apart = (_move(part, mask.rows, mask.places) for part in (queries, keys, values))
        return _move(attend(*apart, cache, scale, CAUSAL, sinks), mask.places, mask.rows)

    return call


def _arguments(cache: Any, scale: float, mask: Any = None, sinks: Any = None) -> tuple[Any, float, Any, Any]:
    """Name the arguments of attention behind queries, keys and values."""
    return cache, scale, mask, sinks


def _move(x: mx.array, to: mx.array, back: mx.array) -> mx.array:
    """Move places of f[B, H, T, D] to other rows, f[R, H, L, D].

    Args:
        x: As above. Each of its places has one place in the result at most.
        to: i32[R, L], flat places of x; where there is none, the result is of some place, which no gradient reaches.
        back: i32[B, T], flat places of the result; -1 where there is none.
    """
    n_heads, width = x.shape[1], x.shape[3]

    @custom_vjp(keeps="inputs")
    def moved(flat: mx.array) -> mx.array:
        return flat[mx.maximum(to.reshape(-1), 0)]

    @moved.vjp
    def moved_vjp(_: mx.array, cotangent: mx.array) -> mx.array:
        # A gather as well: MLX's own gradient of one adds up atomically.
        found = back.reshape(-1)
        return mx.where((found >= 0)[:, None, None], cotangent[mx.maximum(found, 0)], 0)

    flat: mx.array = moved(x.transpose(0, 2, 1, 3).reshape(-1, n_heads, width))
    return flat.reshape(*to.shape, n_heads, width).transpose(0, 2, 1, 3)


def _bucket_examples(n_examples: int) -> int:
    """Round a number of examples up to a power of two, or to three quarters of one."""
    size = 1 << max(0, n_examples - 1).bit_length()
    return size - size // 4 if n_examples <= size - size // 4 else size
