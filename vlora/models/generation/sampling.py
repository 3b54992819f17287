"""Chooses the next token: the likeliest, or a random one."""

import hashlib
from collections.abc import Collection, Sequence

import attrs
import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ...types import IntArray
from ..forward.merging import IMAGE_TOKENS

OTHER_MEDIA = ("video_token_id", "video_token_index", "audio_token_id", "audio_token_index")


@attrs.frozen(eq=False, kw_only=True)
class Sampler:
    """Chooses the next tokens of the rows of a batch.

    Random choices for a row depend on its name, and not on the other rows.

    Attributes:
        names: Seeds of the rows' random choices; unused at temperature 0.
        temperature: 0 for the likeliest token; higher values draw more evenly.
        banned: Tokens that are never chosen.
    """

    names: Sequence[str]
    temperature: float = 0.0
    banned: Collection[int] = ()

    def __call__(self, logits: mx.array, number: int) -> IntArray:
        """Choose a token for each row: (f[B, V], number of the answers' token) to i32[B]."""
        return np.array(self.draw(logits, number)).astype(np.int32)

    def draw(self, logits: mx.array, number: int) -> mx.array:
        """Do the same without waiting for the device; safe to trace."""
        scores = logits.astype(mx.float32)
        if within := [token for token in self.banned if 0 <= token < scores.shape[-1]]:
            scores[:, mx.array(within)] = -mx.inf
        if self.temperature > 0:
            noise = [mx.random.gumbel(scores.shape[-1:], key=_key(name, number)) for name in self.names]
            scores = scores / self.temperature + mx.stack(noise)
        return mx.argmax(scores, axis=-1)


def media_tokens(module: nn.Module, image_id: int) -> frozenset[int]:
    """Find the tokens of images, videos and sounds, which answers must not contain.

    Args:
        module: The model.
        image_id: The encoder's token for an image.
    """
    own = (getattr(module.config, name, None) for name in (*IMAGE_TOKENS, *OTHER_MEDIA))
    return frozenset({image_id, *(token for token in own if isinstance(token, int))})


def _key(name: str, number: int) -> mx.array:
    digest = hashlib.blake2b(f"{number} {name}".encode(), digest_size=8).digest()
    key: mx.array = mx.random.key(int.from_bytes(digest, "little"))
    return key
