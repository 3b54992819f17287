"""Keys and values of the tokens that a batch's rows have read, each at the place that it has in training.

mlx-vlm's caches put rows of unequal length against their ends, and a layer's mask and positions have to follow. Here a
row stands as it does in a batch that is trained on, from place 0 on, padded behind: while prompts are read the layers
do what they do in training, and an answer's tokens are written over the padding.
"""

from typing import Any

import attrs
import mlx.core as mx
from mlx_vlm.models.cache import create_causal_mask

EVERYTHING = 1 << 30
"""A window that is wider than any row."""


@attrs.define(eq=False)
class KeptKeys:
    """What one layer has made of a batch's tokens; what mlx-vlm's models take for a cache.

    Attributes:
        length: Places of a row, the longest answer's included.
        places: i32[B], where the one token of each row stands that is read now; None while prompts are read.
        reach: Places that any of the tokens read now sees.
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
        """Places before those that are read now."""
        return 0 if self.places is None else self.places

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Keep what a layer has made of the tokens that are read now, and give all that they see."""
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
        """Keys and values as far as they are seen, for layers that have none of their own."""
        if self.keys is None or self.values is None:
            msg = "a layer reads keys before they are made"
            raise RuntimeError(msg)
        return self.keys[:, :, : self.reach], self.values[:, :, : self.reach]

    def seen(self, window: int | None = None) -> mx.array | None:
        """Say what the one token of each row sees, bool[B, 1, 1, reach]; None while prompts are read."""
        return None if self.places is None else seen_from(self.places, self.reach, window)

    def make_mask(self, n_tokens: int, *, return_array: bool = False, window_size: int | None = None) -> Any:
        """Make the mask of the tokens that are read now, as mlx-vlm's `create_attention_mask` asks for it."""
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
    """Say what single tokens see of their rows: i32[B] to bool[B, 1, 1, length]."""
    distance = places[:, None] - mx.arange(length)[None]
    return ((distance >= 0) & (distance < (window or EVERYTHING)))[:, None, None]
