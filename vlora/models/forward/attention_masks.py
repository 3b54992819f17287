"""Attention that is not causal everywhere: blocks of tokens that see each other. Pure; safe to trace.

A row carries `blocks` i32[1, T]: 0 for a token that sees what is before it, and a number for the tokens that also see
all others with the same number: one per image (Gemma 3), or one for the whole prompt (prefix language models).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_vlm.models.base import scaled_dot_product_attention

from ...ops.custom_vjp import custom_vjp
from ...types import BoolArray
from .overrides import replacing_in_files

MASK_MAKER = "create_attention_mask"

CAUSAL = "causal"
"""What mlx-vlm's models give to attention in the place of a causal mask."""


class Moved(str):
    """Stands for `CAUSAL` where the gradient of attention's result is a move: heads of a place are adjacent in it."""

    __slots__ = ()


ADDED = (mx.bfloat16, mx.float16)
"""Types that the CUDA kernel of attention supports."""

TILE = 128
"""The kernel of attention's gradient supports lengths that are multiples of this."""

WIDEST_HEAD = 128
"""Widest head that the kernels support."""

FEWEST_PADDED = TILE // 2
"""Length from which rows are padded to a tile."""

UNSEEN = -30000.0
"""Added to the score of a key that is not seen: its exponential is 0, and half precision can represent it."""


def number_runs(marked: BoolArray) -> mx.array:
    """Number the runs of marked tokens: bool[T] to i32[1, T], 0 where nothing is marked."""
    starts = marked & ~np.concatenate([[False], marked[:-1]])
    return mx.array(np.where(marked, np.cumsum(starts), 0).astype(np.int32))[None]


def block_mask(
    blocks: mx.array, window: int | None = None, *, whole_blocks: bool = False, segments: mx.array | None = None
) -> mx.array:
    """Make the attention mask of rows with blocks.

    Args:
        blocks: i32[B, T].
        window: How many places back a token sees, itself included; None for all.
        whole_blocks: Whether a token sees all of its block, also beyond the window.
        segments: i32[B, T] of packed rows, whose examples do not see one another; None for rows of one example.

    Returns:
        bool[B, 1, T, T], True where the query (third axis) sees the key (fourth).
    """
    place = mx.arange(blocks.shape[1])
    distance = place[:, None] - place[None]
    together = (blocks[:, :, None] == blocks[:, None, :]) & (blocks[:, :, None] > 0)
    near = distance < (blocks.shape[1] if window is None else window)
    before = (distance >= 0) & near
    mask = (before[None] | (together if whole_blocks else together & near))[:, None]
    return mask if segments is None else mask & in_one_segment(segments)


def row_mask(cache: Any, blocks: mx.array, window: int | None = None, **options: Any) -> mx.array:
    """Make the attention mask of rows with blocks, or of the single tokens of their answers, which are in none.

    Args:
        cache: The language model's input of that name, as `vlora.models.generation` gives it; None where whole rows
            are read.
        blocks: As for `block_mask`, as are the others.
        window: See there.
        options: See there.
    """
    seen: mx.array | None = None if cache is None else cache[0].seen(window)
    return block_mask(blocks, window, **options) if seen is None else seen


def in_one_segment(segments: mx.array) -> mx.array:
    """Mark pairs of places of one example: i32[B, T] to bool[B, 1, T, T]."""
    return (segments[:, :, None] == segments[:, None, :])[:, None]


def segment_mask(segments: mx.array) -> mx.array:
    """Make the causal mask of packed rows: bool[B, 1, T, T], True where the query (third axis) sees the key."""
    return block_mask(mx.zeros_like(segments), None, segments=segments)


@contextmanager
def own_masks(attentions: dict[str, list[nn.Module]]) -> Iterator[None]:
    """Let each attention module select its mask from a dict of masks that is passed through the model.

    Args:
        attentions: Name of a mask to the attention modules that take it, as their second argument.
    """
    swapped: list[tuple[nn.Module, type]] = []
    try:
        for name, modules in attentions.items():
            for module in modules:
                swapped.append((module, type(module)))
                module.__class__ = _taking(type(module), name)
        yield
    finally:
        for module, cls in swapped:
            module.__class__ = cls


def _taking(cls: type, name: str) -> type:
    def call(self: nn.Module, x: mx.array, mask: object = None, *args: object, **kwargs: object) -> object:
        return cls.__call__(self, x, mask[name] if isinstance(mask, dict) else mask, *args, **kwargs)

    return type(f"{name.title()}{cls.__name__}", (cls,), {"__call__": call})


def masks_within(module: nn.Module, segments: mx.array, causal: str | None = None) -> AbstractContextManager[None]:
    """Let the masks that a model makes for itself keep the examples of packed rows apart.

    mlx-vlm's models make them once per forward, with a function that each of their files imports: those of sliding
    windows come through it too, and models that pass no mask on to their layers (qwen3_vl/language.py:199).

    Args:
        module: The model.
        segments: i32[B, T] of packed rows.
        causal: What stands for a causal mask, if attention itself keeps examples apart; None for a mask that does.
    """
    within = segment_mask(segments)

    def narrowed(make: Callable[..., Any]) -> Callable[..., Any]:
        def narrow(*args: Any, **kwargs: Any) -> Any:
            # Otherwise it is None or "causal".
            mask = make(*args, **kwargs)
            if isinstance(mask, mx.array):
                return mask & within
            return within if causal is None else causal

        return narrow

    return replacing_in_files(module, MASK_MAKER, narrowed)


def attend_fused(
    queries: mx.array, keys: mx.array, values: mx.array, cache: Any, scale: float, mask: Any = None, sinks: Any = None
) -> mx.array:
    """Compute attention as mlx-vlm does, in a form that MLX's CUDA kernels support, forward and backward.

    Boolean masks are converted to additive ones: the kernel would convert them for every head; with one additive mask
    for all heads it takes 0.6 times as long (an H100, 16 rows of 512, 16 heads). They are converted only here, since
    some models select by the boolean mask before attention (deepseek_v3/language.py:122).

    Rows are padded to whole tiles: for other lengths the gradient has no kernel, and all scores are written to memory
    (`use_fallback` in cuda/scaled_dot_product_attention.cpp).
    """
    is_bool = isinstance(mask, mx.array) and mask.dtype == mx.bool_
    n_places = queries.shape[2]
    missing = -n_places % TILE
    # An additive bias may be trained, and the kernel has no gradient for it.
    is_square = mask.shape[-2:] == (n_places, n_places) if is_bool else isinstance(mask, str) and mask == CAUSAL
    if is_bool and queries.dtype in ADDED:
        mask = mx.where(mask, 0, UNSEEN).astype(queries.dtype)
    is_narrow = max(queries.shape[3], values.shape[3]) <= WIDEST_HEAD
    is_whole = is_square and is_narrow and keys.shape[2] == n_places and cache is None and sinks is None
    if not (missing and is_whole and n_places >= FEWEST_PADDED and queries.dtype in ADDED):
        mixed: mx.array = scaled_dot_product_attention(queries, keys, values, cache, scale, mask, sinks)
        return mixed if isinstance(mask, Moved) else _first_places(mixed, n_places)
    if isinstance(mask, mx.array):
        # No place sees the padding; padding sees all places, since it has to see something.
        around = [(0, 0)] * (mask.ndim - 1)
        mask = mx.pad(mask, [*around, (0, missing)], constant_values=UNSEEN)
        mask = mx.pad(mask, [*around[1:], (0, missing), (0, 0)])
    padded = (_pad_places(part, missing) for part in (queries, keys, values))
    return _first_places(scaled_dot_product_attention(*padded, cache, scale, mask), n_places)


def _first_places(mixed: mx.array, n_places: int) -> mx.array:
    """Take the first places of f[B, H, T, D]; whatever their number, the gradient comes back in one layout.

    MLX finds the compiled gradient of attention by the layouts of queries, keys and values alone
    (`build_sdpa_cache_key` in cuda/scaled_dot_product_attention.cpp of 0.32). A gradient in another layout than the one
    that it was compiled for is read in the wrong order: rows of 512 places and rows that are padded to 512 share it.
    """
    missing = mixed.shape[2] - n_places

    @custom_vjp(keeps="inputs")
    def first(mixed: mx.array) -> mx.array:
        return mixed[:, :, :n_places]

    @first.vjp
    def first_vjp(_: mx.array, cotangent: mx.array) -> mx.array:
        if missing:
            return _pad_places(cotangent, missing)
        return mx.contiguous(cotangent.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)

    places: mx.array = first(mixed)
    return places


def _pad_places(x: mx.array, missing: int) -> mx.array:
    """Pad f[B, H, T, D] with zeros along T; in memory the heads of a place are adjacent.

    `mx.pad` fills the whole array with zeros before it copies: that took longer on an H200 than copying did.
    """
    n_rows, n_heads, _, width = x.shape
    nothing = mx.broadcast_to(mx.zeros((), x.dtype), (n_rows, missing, n_heads, width))
    return mx.concatenate([x.transpose(0, 2, 1, 3), nothing], axis=1).transpose(0, 2, 1, 3)
