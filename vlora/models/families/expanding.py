"""Families in which one token stands for an image, and the model replaces it by all features of the image.

Text tokens keep their order, but not their places: the embeddings come with the place of each token's logit.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..forward.lm_inputs import LOGIT_PLACES, LMInputs

WITHOUT_TOKEN: Mapping[str, Any] = {"image_mark": "<image>", "image_id": -200}
"""Families whose processors cut the text at "<image>", which is no token, and write an id between the parts."""


def expand_features(table: nn.Module, tokens: mx.array, features: Sequence[mx.array], image_id: int) -> LMInputs:
    """Replace each image's token by its features.

    Args:
        table: The embedding of text.
        tokens: i32[1, T]; the image's id may be negative.
        features: Per image f[N, D].
        image_id: The id that stands for an image.

    Returns:
        The embeddings f[1, T', D], and the places in them of the logits that predict the next tokens, i32[1, T].

    Raises:
        ValueError: The numbers of images and of their tokens differ.
    """
    ids = np.array(tokens[0])
    marks = np.flatnonzero(ids == image_id).tolist()
    if len(marks) != len(features):
        msg = f"{len(marks)} image tokens stand for {len(features)} images"
        raise ValueError(msg)
    text = table(mx.maximum(tokens, 0))[0]
    parts, start = [], 0
    lengths = np.ones(len(ids), dtype=np.int32)
    for mark, image in zip(marks, features, strict=True):
        parts += [text[start:mark], image.astype(text.dtype)]
        lengths[mark] = image.shape[0]
        start = mark + 1
    places = np.cumsum(lengths, dtype=np.int32) - 1
    return {"inputs_embeds": mx.concatenate([*parts, text[start:]])[None], LOGIT_PLACES: mx.array(places)[None]}
