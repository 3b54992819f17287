"""Attention that is not causal everywhere: blocks of tokens that see each other. Pure; safe to trace.

A row carries `blocks` i32[1, T]: 0 for a token that sees what is before it, and a number for the tokens that also see
all others with the same number: one per image (Gemma 3), or one for the whole prompt (prefix language models).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..types import BoolArray
from .corrections import instance_attributes
from .fields import Fields


def number_runs(marked: BoolArray) -> mx.array:
    """Number the runs of marked tokens: bool[T] to i32[1, T], 0 where nothing is marked."""
    starts = marked & ~np.concatenate([[False], marked[:-1]])
    return mx.array(np.where(marked, np.cumsum(starts), 0).astype(np.int32))[None]


def block_mask(blocks: mx.array, window: int | None = None) -> mx.array:
    """Make the attention mask of rows with blocks.

    Args:
        blocks: i32[B, T].
        window: How many places back a token sees, itself included; None for all. Blocks are seen whole.

    Returns:
        bool[B, 1, T, T], True where the query (third axis) sees the key (fourth).
    """
    place = mx.arange(blocks.shape[1])
    distance = place[:, None] - place[None]
    seen = distance >= 0
    if window is not None:
        seen = seen & (distance < window)
    together = (blocks[:, :, None] == blocks[:, None, :]) & (blocks[:, :, None] > 0)
    return (seen[None] | together)[:, None]


@contextmanager
def own_masks(attentions: dict[str, list[nn.Module]]) -> Iterator[None]:
    """Let each attention take its own mask where a dict of masks is passed through the model.

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


def gemma3_masks(model: nn.Module) -> AbstractContextManager[None]:
    """Let Gemma 3's full and sliding layers take masks of their own."""
    language = model.language_model.model
    pattern = language.sliding_window_pattern
    divided: dict[str, list[nn.Module]] = {"full": [], "sliding": []}
    for number, layer in enumerate(language.layers):
        divided["full" if number % pattern == pattern - 1 else "sliding"].append(layer.self_attn)
    return own_masks(divided)


def run_gemma3(model: nn.Module, tokens: mx.array, fields: Fields) -> mx.array:
    """Run Gemma 3's language model with bidirectional attention inside each image.

    mlx-vlm builds a mask from the 2-D one that is not causal at all (gemma3/gemma3.py:151), and takes one mask for
    full and sliding layers alike (gemma3/language.py:184).
    """
    fields = dict(fields)
    blocks = fields.pop("blocks")
    masks = {"full": block_mask(blocks), "sliding": block_mask(blocks, model.language_model.config.sliding_window)}
    logits: mx.array = model.language_model(tokens, mask=masks, cache=None, **fields).logits
    return logits


def run_prefix(model: nn.Module, tokens: mx.array, fields: Fields) -> mx.array:
    """Run a prefix language model: the prompt sees itself whole, the answer what is before it."""
    fields = dict(fields)
    mask = block_mask(fields.pop("blocks"))
    logits: mx.array = model.language_model(tokens, mask=mask, cache=None, **fields).logits
    return logits


def gemma4_masks(model: nn.Module) -> AbstractContextManager[None]:
    """Build Gemma 4's masks without reading values back, which a trace cannot (gemma4/language.py, `_make_masks`)."""
    language = model.language_model.model
    if getattr(language.config, "use_bidirectional_attention", None) != "vision":
        return nullcontext()

    def make(hidden: mx.array, _: object, token_types: mx.array | None = None) -> list[mx.array]:
        blocks = mx.zeros(hidden.shape[:2], dtype=mx.int32)
        if token_types is not None:
            blocks = language._block_sequence_ids_for_mask(token_types) + 1  # noqa: SLF001 - the family's own rule
        masks = {"full_attention": block_mask(blocks), "sliding_attention": block_mask(blocks, language.window_size)}
        return [masks[layer.layer_type] for layer in language.layers]

    return instance_attributes(language, _make_masks=make)
