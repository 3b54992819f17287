"""Which token comes next: the likeliest, or one that is drawn."""

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

    What is drawn for a row depends on the row's name alone, and not on the rows beside it.

    Attributes:
        names: What each row is drawn by; of no meaning at temperature 0.
        temperature: 0 for the likeliest token; higher is more even.
        banned: Tokens that are never chosen.
    """

    names: Sequence[str]
    temperature: float = 0.0
    banned: Collection[int] = ()

    def __call__(self, logits: mx.array, number: int) -> IntArray:
        """Choose a token for each row: f[B, V], which token of the answers it is, to i32[B]."""
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
    """Find the tokens that stand for images, videos and sounds, which no answer has.

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
