"""Shortens rows to `data.max_seq_length`: text may be cut, images never."""

from typing import Any

import attrs
import numpy as np

from ..errors import LongRowError, SampleError
from ..recipe.schema import DataSection
from ..types import Cut, Example


def truncate(example: Example, data: DataSection) -> Example:
    """Shorten a row to `data.max_seq_length`; text may be cut, images never.

    Raises:
        LongRowError: The row is longer, and the recipe wants no row cut.
        SampleError: An image, or everything supervised, lies beyond; or nothing is supervised at all.
    """
    n_tokens, max_tokens = len(example.tokens), data.max_seq_length
    if n_tokens > max_tokens:
        if data.on_long_row != "cut":
            msg = f"{example.source}: {n_tokens:,} tokens exceed data.max_seq_length={max_tokens}; raise it"
            raise LongRowError(msg)
        n_cut = int(example.placeholders[max_tokens:].sum())
        if n_cut:
            msg = (
                f"{example.source}: {n_tokens:,} tokens exceed data.max_seq_length={max_tokens} and "
                f"{n_cut:,} image tokens would be cut; raise it, or shrink the images with data.max_pixels "
                "or data.image_resize_shape"
            )
            raise SampleError(msg)
        inputs = {
            name: value[:, :max_tokens] if is_per_token(value, n_tokens) else value
            for name, value in example.inputs.items()
        }
        example = attrs.evolve(
            example,
            tokens=example.tokens[:max_tokens],
            supervised=example.supervised[:max_tokens],
            placeholders=example.placeholders[:max_tokens],
            inputs=inputs,
            cut=Cut(
                source=example.source,
                n_tokens=n_tokens,
                n_kept=max_tokens,
                n_lost=int(example.supervised[max_tokens:].sum()),
            ),
        )
    if not example.supervised.any():
        beyond = f" within data.max_seq_length={max_tokens} ({n_tokens:,} tokens)" if n_tokens > max_tokens else ""
        msg = f"{example.source}: no token is supervised{beyond}; there is nothing to learn from"
        raise SampleError(msg)
    return example


def is_per_token(value: Any, n_tokens: int) -> bool:
    """Whether an input of a model has a number for each token of a row."""
    return isinstance(value, np.ndarray) and value.ndim > 1 and value.shape[1] == n_tokens and value.dtype.kind in "iub"
