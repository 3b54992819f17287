"""Puts image features at the places of their tokens in a way that has a gradient.

Every correction names what it works around, with file and line of mlx-vlm 0.7.10, so that it can be removed when
upstream mends it.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .overrides import Override, override_attributes

IMAGE_TOKENS = ("image_token_index", "image_token_id", "media_placeholder_token_id")
"""The names under which configurations keep the ids of the tokens that stand for image features."""


def image_ids(model: nn.Module) -> tuple[int, ...]:
    """Find the ids of the tokens that stand for image features, under any of the names that configurations have."""
    return tuple(
        int(getattr(model.config, name)) for name in IMAGE_TOKENS if getattr(model.config, name, None) is not None
    )


def merge_by_gather(method: str) -> Override:
    """Merge image features into the text so that their gradient exists.

    `inputs_embeds[:, positions, :] = features` has no gradient with respect to the features in MLX 0.32, so that the
    tower and the projector could not be trained: llava/llava.py:113, internvl_chat/internvl_chat.py:105,
    aya_vision/aya_vision.py:153, kimi_k25/kimi_k25.py:131, llmjpvl/llmjpvl.py:102, plamo2vl/plamo2vl.py:132.

    Args:
        method: The model's method that merges: (features, embeddings, tokens, ...) to embeddings. Further arguments are
            ids of image tokens that the processor found; if there are any, they are used.
    """

    def correction(model: nn.Module) -> AbstractContextManager[None]:
        def merge(features: mx.array, embeds: mx.array, tokens: mx.array, *given: Any, **named: Any) -> mx.array:
            found = tuple(int(token) for token in (*given, *named.values()) if token is not None)
            placeholders = np.isin(np.array(tokens), found or image_ids(model))
            return scatter_features(embeds, features.reshape(-1, features.shape[-1]), placeholders)

        return override_attributes(model, **{method: merge})

    return correction


merge_features = merge_by_gather("_merge_input_ids_with_image_features")
"""`merge_by_gather` under the name that most of these models have for the method."""


def scatter_features(embeds: mx.array, features: mx.array, is_image: "np.ndarray[Any, Any]") -> mx.array:
    """Put features, in order, at the places of the image tokens.

    Args:
        embeds: f[B, T, D].
        features: f[N, D].
        is_image: bool[B, T], on the host, with N True.

    Returns:
        f[B, T, D] in the type of `embeds`.

    Raises:
        ValueError: N differs from the number of image tokens; MLX itself would read out of bounds.
    """
    return scatter_layers([embeds], [features], is_image)[0]


def scatter_layers(
    onto: Sequence[mx.array], layers: Sequence[mx.array], is_image: "np.ndarray[Any, Any]"
) -> list[mx.array]:
    """Put several layers' features at the places of the image tokens, as `scatter_features` does for one.

    Args:
        onto: For each layer f[B, T, D].
        layers: Of each layer f[N, D].
        is_image: bool[B, T], on the host, with N True.

    Returns:
        For each layer f[B, T, D].

    Raises:
        ValueError: N differs from the number of image tokens.
    """
    n_tokens, n_features = int(is_image.sum()), layers[0].shape[0]
    if n_tokens != n_features:
        msg = f"{n_tokens} image tokens stand for {n_features} image features"
        raise ValueError(msg)
    if not n_features:
        return list(onto)
    index = np.where(is_image, np.cumsum(is_image.reshape(-1)).reshape(is_image.shape) - 1, 0)
    places, mask = mx.array(index.astype(np.int32)), mx.array(is_image)[..., None]
    return [
        mx.where(mask, features[places].astype(embeds.dtype), embeds)
        for embeds, features in zip(onto, layers, strict=True)
    ]


def dense_deepstack(model: nn.Module) -> AbstractContextManager[None]:
    """Add the deepstack features as the dense f[B, T, D] that the backbone makes of them.

    `_deepstack_process` (qwen3_vl/language.py:236, qwen3_vl_moe/language.py:274) finds the image tokens with
    `np.where`, which cannot be traced.
    """

    def add(hidden: mx.array, _: Any, features: mx.array) -> mx.array:
        return hidden + features

    return override_attributes(model.language_model.model, _deepstack_process=add)
