"""Attention of packed rows, computed in shorter rows: for it alone, examples are moved to equal parts of a pack. Pure.

Under a mask the scores of all pairs of places of a pack are computed, and those of two examples dropped: of sixteen
examples of one length fifteen sixteenths. A part is as long as the longest example at least, and holds several where
they are shorter: a row for each of them would have up to six times the places of the pack, and other shapes each step.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ...ops.buckets import SMALLEST_BUCKET
from ...ops.cuda_kernels import on_cuda
from ...ops.functional import move
from .attention_masks import CAUSAL, TILE, Moved, segment_mask
from .lm_inputs import LMInputs
from .overrides import Attend, wrapping_attention

Span = tuple[int, int, int]
"""An example of a packed batch: (row, first place, places)."""

ROWS, PLACES, SHARED = "segment_rows", "segment_places", "segment_shared"
"""Inputs of a language model: i32[S, L], the flat place b T + t of each place of the shorter rows, and i32[B, T], the
flat place s L + l of each place of the packed rows; -1 where there is none. i32[S, L], a number for each example of a
shorter row and 0 where there is none, only where one holds several."""

N_PARTS = (16, 8, 4, 2, 1)
"""Into how many parts a pack may be divided: powers of two, and so few shapes to trace."""

MORE_PARTS = (1.0, 1.5)
"""Shorter rows, over the parts that packs are divided into: few different numbers, and so few shapes to trace."""

MOST_SCORES = 0.75
"""Scores that are computed apart, over those of whole packs, from which on moving the examples is not worth it."""


class Apart(str):
    """Stands for the causal mask of packed rows: what mlx-vlm calls one, and where the examples are.

    It goes through a model's layers as their mask, so that layers that are recomputed in the backward pass have it too.

    Attributes:
        rows: `ROWS`.
        places: `PLACES`.
        within: The mask of the shorter rows.
    """

    __slots__ = ("places", "rows", "within")

    rows: mx.array
    places: mx.array
    within: mx.array | str

    def __new__(cls, rows: mx.array, places: mx.array, shared: mx.array | None = None) -> Self:
        """Make the mask, of `ROWS`, `PLACES` and `SHARED`."""
        mask = super().__new__(cls, CAUSAL)
        mask.rows, mask.places = rows, places
        mask.within = Moved(CAUSAL) if shared is None else segment_mask(shared)
        return mask


def place_apart(spans: Sequence[Span], n_rows: int, length: int) -> dict[str, mx.array]:
    """Find where the examples of packed rows stand in shorter rows.

    Args:
        spans: Of all examples of the batch.
        n_rows: B.
        length: T.

    Returns:
        `ROWS` and `PLACES`, and `SHARED` if a row holds several; empty where a mask over whole packs takes less.
    """
    counts = [count for _, _, count in spans]
    shape, filled = _choose_shape(counts, n_rows, length)
    if not filled:
        return {}
    n_short, width = shape
    rows = np.full(n_short * width, -1, dtype=np.int32)
    places = np.full(n_rows * length, -1, dtype=np.int32)
    shared = np.zeros(n_short * width, dtype=np.int32)
    for number, ((row, start, count), (short, place)) in enumerate(zip(spans, filled, strict=True), start=1):
        first, moved = row * length + start, short * width + place
        rows[moved : moved + count] = np.arange(first, first + count)
        places[first : first + count] = np.arange(moved, moved + count)
        shared[moved : moved + count] = number
    found = {ROWS: rows.reshape(n_short, width), PLACES: places.reshape(n_rows, length)}
    if len({short for short, _ in filled}) < len(spans):
        found[SHARED] = shared.reshape(n_short, width)
    return {name: mx.array(value) for name, value in found.items()}


def _choose_shape(counts: Sequence[int], n_rows: int, length: int) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    """Choose how many shorter rows there are, and of how many places; where examples stand in them, if they do."""
    multiple = TILE if on_cuda() else SMALLEST_BUCKET
    for parts in N_PARTS:
        width = -(-length // (parts * multiple)) * multiple
        if width < max(counts):
            continue
        filled = _fill_rows(counts, width)
        n_needed = max(row for row, _ in filled) + 1
        for size in (math.ceil(n_rows * parts * more) for more in MORE_PARTS):
            if size >= n_needed and size * width**2 <= MOST_SCORES * n_rows * length**2:
                return (size, width), filled
    return (0, 0), []


def _fill_rows(counts: Sequence[int], width: int) -> list[tuple[int, int]]:
    """Give each example a row and its first place there: the longest first, each in the first row that has room."""
    ends: list[int] = []
    filled = [(0, 0)] * len(counts)
    for number in sorted(range(len(counts)), key=lambda number: -counts[number]):
        row = next((row for row, end in enumerate(ends) if end + counts[number] <= width), len(ends))
        if row == len(ends):
            ends.append(0)
        filled[number] = (row, ends[row])
        ends[row] += counts[number]
    return filled


def take_apart(fields: LMInputs) -> Apart | None:
    """Take `ROWS`, `PLACES` and `SHARED` from a language model's inputs; None if it has none."""
    rows, places, shared = (fields.pop(name, None) for name in (ROWS, PLACES, SHARED))
    return None if rows is None else Apart(rows, places, shared)


def attending_apart(module: nn.Module) -> AbstractContextManager[None]:
    """Let attention compute packed rows in shorter ones where its mask says so."""
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
        return _move(attend(*apart, cache, scale, mask.within, sinks), mask.places, mask.rows)

    return call


def attend_heads(
    attend: Attend, queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: Any
) -> mx.array:
    """Compute attention of heads that are adjacent in memory; packed rows are computed in shorter ones.

    Args:
        attend: As mlx-vlm's models call it.
        queries: f[B, T, H, D], or f[R, L, H, D] where the mask is `Apart`.
        keys: f[B, T, K, D], or f[R, L, K, D] likewise.
        values: f[B T, K D].
        scale: Factor of the scores.
        mask: As for `attend`, or `Apart`.

    Returns:
        f[B T, H D].
    """
    shape, together = keys.shape[2:], math.prod(queries.shape[2:])
    if isinstance(mask, Apart):
        places = mask.places.reshape(-1)
        apart = (queries, keys, move(values, mask.rows, places, shape))
        mixed = attend(*(part.transpose(0, 2, 1, 3) for part in apart), None, scale, mask.within)
        return move(mixed.transpose(0, 2, 1, 3), places, mask.rows, (together,))
    heads = (part.transpose(0, 2, 1, 3) for part in (queries, keys, values.reshape(keys.shape)))
    mixed = attend(*heads, None, scale, mask)
    return mixed.transpose(0, 2, 1, 3).reshape(-1, together)


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
    return move(x.transpose(0, 2, 1, 3), to, back).transpose(0, 2, 1, 3)
