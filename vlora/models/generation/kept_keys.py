"""Keeps keys and values of a batch's rows, each at the place that it has in training.

mlx-vlm's caches align rows of different lengths at their ends, and masks and positions have to follow. Here rows begin
at place 0 and are padded at the end, as in a training batch: prompts are read as in training, and an answer's tokens
overwrite the padding.
"""

from typing import Any

import attrs
import mlx.core as mx
from mlx_vlm.models.cache import create_causal_mask

EVERYTHING = 1 << 30
"""A window that is wider than any row."""


@attrs.define(eq=False)
class KeptKeys:
    """Keys and values of one layer, with the interface of mlx-vlm's caches.

    Attributes:
        length: Places of a row, including the longest answer.
        places: i32[B], place of the token of each row that is being read; None while prompts are read.
        reach: Number of places that the tokens being read can see.
        keys: f[B, H, length, D], None before prompts are read.
        values: As the keys.
    """

    length: int
    places: mx.array | None = None
    reach: int = 0
    keys: mx.array | None = None
    values: mx.array | None = None

    @property
    def offset(self) -> int | mx.array:
        """Number of places before those that are being read."""
        return 0 if self.places is None else self.places

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Keep the keys and values of the tokens being read, and return all that they can see."""
        if self.places is None or self.keys is None or self.values is None:
            self.keys, self.values = (self._padded(part) for part in (keys, values))
            self.reach = keys.shape[2]
            return keys, values
        here = (mx.arange(self.length)[None] == self.places[:, None])[:, None, :, None]
        self.keys = mx.where(here, keys, self.keys)
        self.values = mx.where(here, values, self.values)
        return self.state

    @property
    def state(self) -> tuple[mx.array, mx.array]:
        """The visible keys and values, for layers that share those of another layer."""
        if self.keys is None or self.values is None:
            msg = "a layer reads keys before they are made"
            raise RuntimeError(msg)
        return self.keys[:, :, : self.reach], self.values[:, :, : self.reach]

    def seen(self, window: int | None = None) -> mx.array | None:
        """Return the mask of each row's token, bool[B, 1, 1, reach]; None while prompts are read."""
        return None if self.places is None else seen_from(self.places, self.reach, window)

    def make_mask(self, n_tokens: int, *, return_array: bool = False, window_size: int | None = None) -> Any:
        """Make the mask of the tokens being read, for mlx-vlm's `create_attention_mask`."""
        if self.places is not None:
            return self.seen(window_size)
        if n_tokens == 1:
            return None
        if return_array or (window_size and n_tokens > window_size):
            return create_causal_mask(n_tokens, window_size=window_size)
        return "causal"

    def _padded(self, part: mx.array) -> mx.array:
        return mx.pad(part, [(0, 0), (0, 0), (0, self.length - part.shape[2]), (0, 0)])


def seen_from(places: mx.array, length: int, window: int | None = None) -> mx.array:
    """Make the masks of single tokens: i32[B] to bool[B, 1, 1, length]."""
    distance = places[:, None] - mx.arange(length)[None]
    return ((distance >= 0) & (distance < (window or EVERYTHING)))[:, None, None]
