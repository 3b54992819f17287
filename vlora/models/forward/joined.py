"""Padded rows joined to one: layers run at places of tokens alone, attention in a row for each example. Pure.

A batch of rows of unequal lengths has a tenth to a third of padding, and all layers but attention run at each place by
itself. What the language model reads is moved once, behind the embedding. The batch stays as it is, and so do the flat
places b T + t of its tokens.
"""

import sys
from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ...ops.buckets import SMALLEST_BUCKET, bucket_length
from ...ops.cuda_kernels import on_cuda
from ...ops.functional import take_rows
from ...types import Tree
from .attention_masks import TILE
from .lm_inputs import SEGMENTS, Layouts, LMInputs, PadSpec
from .segments import PLACES, ROWS, Span

JOINED, SOURCES = "joined_places", "joined_sources"
"""Inputs of a language model: i32[B T], where in the joined row each place of the batch stands, -1 where nowhere; and
i32[N], which place of the batch stands at each place of the joined row."""

MOST_PLACES = 0.96
"""Places of the joined row, over those of the batch, from which on moving them is not worth it. Batches that are not
joined have shapes of their own: of 60 steps of 16 rows with photos and short answers, 0.9 made 5.6 shapes and this 3.4
(simulated), each of which takes an H200's host 0.2 to 0.3 s to trace."""

POSITIONS = "position_ids"

FARTHEST_IN_FLOAT32 = 8192
"""Places of a joined row at most where a model in float32 counts its positions by itself."""

N_AXES = 3
"""Axes of the positions that images have in models with `FINDS_POSITIONS`: time, height and width."""

FINDS_POSITIONS = "get_rope_index"
"""mlx-vlm's name of what finds positions of rows with images; some models call it for those alone."""

N_STEPS = {1: 8, 8: 16}
"""Steps in which the joined row grows up to the places of the batch, from so many rows on: few shapes to trace. The sum
of many lengths varies less, and finer steps are not more of them. An epoch's last, short batch has the same steps:
finer ones would leave a tenth and not 20 to 30 % of its joined row to padding (2 or 3 of 16 rows), which is 1 to 4 % of
a batch's places once an epoch, and would trace one to three shapes more in ten epochs (simulated)."""


def choose_joined(counts: Sequence[int], n_rows: int) -> tuple[int, int] | None:
    """Choose the shape of rows that are joined.

    In the joined row padding costs nothing: rows have one of few lengths, powers of two and one and a half times such,
    so that a run traces few shapes. Rows that are not worth joining are padded as little as others.

    Args:
        counts: Tokens of each example.
        n_rows: B.

    Returns:
        (T of the padded rows, N places of the joined one); None where it is not worth it.
    """
    # A row's last token predicts nothing.
    longest = max(1, max(counts) - 1)
    length, multiple = _round_coarsely(longest), _joined_multiple()
    n_steps = N_STEPS[max(least for least in N_STEPS if least <= n_rows)]
    step = -(-n_rows * length // (n_steps * multiple)) * multiple
    # Rows of a batch that is padded further have a place for their last token, too.
    n_joined = -(-sum(counts) // step) * step
    return (length, n_joined) if n_joined <= MOST_PLACES * n_rows * bucket_length(longest) else None


def _round_coarsely(n_tokens: int) -> int:
    power = 1 << (n_tokens - 1).bit_length()
    chosen = power if n_tokens > power * 3 // 4 else power * 3 // 4
    return -(-chosen // _joined_multiple()) * _joined_multiple()


def can_join(fields: Tree, layouts: Layouts) -> bool:
    """Whether all inputs of a language model have an entry for each token, and positions, if there are, begin anew.

    Args:
        fields: The inputs.
        layouts: Theirs.
    """
    return all(name in layouts and _is_flat(layouts[name]) for name in fields)


def most_places(fields: Tree, farthest: int) -> int:
    """Say how many places a joined row may have.

    Models that are given no positions count on from row to row. That changes no result but by rounding, which grows
    with the positions: in float32 a tiny LLaVA's gradients differ by 3e-5 of their norm at 5,000 places.

    Args:
        fields: The inputs of the language model.
        farthest: From which position on it treats them otherwise.
    """
    if POSITIONS in fields:
        return sys.maxsize
    return min(farthest, FARTHEST_IN_FLOAT32 if fields["inputs_embeds"].dtype == mx.float32 else sys.maxsize)


def with_positions(fields: LMInputs, module: nn.Module, shape: tuple[int, ...]) -> LMInputs:
    """Give rows without images the positions that they have in a batch with images; other inputs stay.

    Args:
        fields: Inputs of rows.
        module: The language model.
        shape: (B, T).
    """
    if POSITIONS in fields or not hasattr(module, FINDS_POSITIONS):
        return fields
    return {**fields, POSITIONS: mx.broadcast_to(mx.arange(shape[-1]), (N_AXES, *shape))}


def plan_joined(spans: Sequence[Span], shape: tuple[int, ...], n_joined: int) -> LMInputs:
    """Find where the places of rows stand in one row.

    Args:
        spans: Of the batch's examples.
        shape: B, T.
        n_joined: N.

    Returns:
        `JOINED`, `SOURCES`, and what keeps examples apart: `ROWS`, `PLACES` and `SEGMENTS`.
    """
    n_rows, length = shape
    width = _round_coarsely(length)
    joined = np.full((n_rows, length), -1, dtype=np.int32)
    rows = np.full((n_rows, width), -1, dtype=np.int32)
    sources, places, segments = (np.full(n_joined, value, dtype=np.int32) for value in (0, -1, 0))
    end = 0
    for number, (row, start, count) in enumerate(spans, start=1):
        own, within = np.arange(end, end + count), np.arange(start, start + count)
        joined[row, within] = rows[row, within] = own
        sources[own], places[own], segments[own] = row * length + within, row * width + within, number
        end += count
    # Padding repeats the last place: zeros give NaN in some families.
    sources[end:] = sources[end - 1]
    found = {JOINED: joined.reshape(-1), SOURCES: sources, ROWS: rows, PLACES: places[None], SEGMENTS: segments[None]}
    return {name: mx.array(value) for name, value in found.items()}


def join_inputs(fields: Tree, plan: LMInputs, layouts: Layouts) -> Tree:
    """Move inputs of rows, f[B, T, ...], to those of the joined row, f[1, N, ...]."""
    sources = plan[SOURCES]
    return {name: _move(value, layouts[name], sources, (1, sources.size)) for name, value in fields.items()}


def part_gradients(fields: Tree, plan: LMInputs, layouts: Layouts, shape: tuple[int, ...]) -> Tree:
    """Move gradients of the joined row's inputs, f[1, N, ...], back to rows, f[B, T, ...]: zeros at padding."""
    return {name: _move(value, layouts[name], plan[JOINED], shape) for name, value in fields.items()}


def _joined_multiple() -> int:
    """Say what the length of the joined row is a multiple of, and that of attention's rows."""
    return TILE if on_cuda() else SMALLEST_BUCKET


def _is_flat(spec: PadSpec) -> bool:
    """Whether its tokens' axis is the one behind its rows' axis, and it can be moved as it is."""
    return spec.follows_tokens and spec.token_axes == (spec.batch_axis + 1,) and not spec.counts_places


def _move(value: Tree, spec: PadSpec, places: mx.array, shape: tuple[int, ...]) -> Tree:
    """Take places of rows, of an array or a list of them, and lay them out as rows of `shape`."""
    if isinstance(value, (list, tuple)):
        return [_move(layer, spec, places, shape) for layer in value]
    axis = spec.batch_axis % value.ndim
    before, behind = value.shape[:axis], value.shape[axis + 2 :]
    if not axis:
        return take_rows(value, places.reshape(shape), behind)
    moved = mx.take(value.reshape(*before, -1, *behind), places, axis=axis)
    return moved.reshape(*before, *shape, *behind)
