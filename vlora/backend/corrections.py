"""Corrections of what mlx-vlm's models get wrong, each of one model's instance and only while it runs.

Every correction names what it works around, with file and line of mlx-vlm 0.7.10, so that it can be removed when
upstream mends it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

Inputs = dict[str, Any]


@contextmanager
def instance_attributes(target: Any, **replacements: Any) -> Iterator[None]:
    """Shadow methods of one object; the class and every other object keep theirs."""
    for name, value in replacements.items():
        object.__setattr__(target, name, value)
    try:
        yield
    finally:
        for name in replacements:
            object.__delattr__(target, name)


def dense_deepstack(model: nn.Module) -> AbstractContextManager[None]:
    """Add the deepstack features as the dense f[B, T, D] that the backbone makes of them.

    `_deepstack_process` (qwen3_vl/language.py:236, qwen3_vl_moe/language.py:274) finds the image tokens with
    `np.where`, which cannot be traced.
    """

    def add(hidden: mx.array, _: Any, features: mx.array) -> mx.array:
        return hidden + features

    return instance_attributes(model.language_model.model, _deepstack_process=add)


def merge_by_gather(model: nn.Module) -> AbstractContextManager[None]:
    """Merge LLaVA's image features so that their gradient exists.

    `inputs_embeds[:, positions, :] = features` (llava/llava.py:113) has no gradient with respect to the features
    in MLX 0.32, so that the tower and the projector could not be trained.
    """

    def merge(features: mx.array, embeds: mx.array, tokens: mx.array) -> mx.array:
        is_image = np.array(tokens) == model.config.image_token_index
        return scatter_features(embeds, features.reshape(-1, features.shape[-1]), is_image)

    return instance_attributes(model, _merge_input_ids_with_image_features=merge)


def scatter_features(embeds: mx.array, features: mx.array, is_image: "np.ndarray[Any, Any]") -> mx.array:
    """Put features, in order, where the image tokens stand.

    Args:
        embeds: f[B, T, D].
        features: f[N, D].
        is_image: bool[B, T], on the host, with N True.

    Returns:
        f[B, T, D] in the type of `embeds`.

    Raises:
        ValueError: N differs from the number of image tokens; MLX itself would read out of bounds.
    """
    if int(is_image.sum()) != features.shape[0]:
        msg = f"{int(is_image.sum())} image tokens stand for {features.shape[0]} image features"
        raise ValueError(msg)
    if not features.shape[0]:
        return embeds
    index = np.where(is_image, np.cumsum(is_image.reshape(-1)).reshape(is_image.shape) - 1, 0)
    gathered = features[mx.array(index.astype(np.int32))].astype(embeds.dtype)
    return mx.where(mx.array(is_image)[..., None], gathered, embeds)


@contextmanager
def undifferentiated_indices(_: nn.Module) -> Iterator[None]:
    """Let no gradient flow into the choice of experts.

    DeepSeek's router scatters with computed indices (deepseek_vl_v2/language.py, MoEGate) without stopping the
    gradient, and MLX refuses to differentiate with respect to indices. mx's functions are wrapped only here.
    """
    choosers = ("argpartition", "argsort", "argmax", "argmin")
    takers = ("take_along_axis", "put_along_axis")
    originals = {name: getattr(mx, name) for name in (*choosers, *takers)}

    def stop_result(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
        return lambda *args, **kwargs: mx.stop_gradient(function(*args, **kwargs))

    def stop_indices(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
        def call(array: mx.array, indices: mx.array, *args: Any, **kwargs: Any) -> mx.array:
            return function(array, mx.stop_gradient(indices), *args, **kwargs)

        return call

    try:
        for name in choosers:
            setattr(mx, name, stop_result(originals[name]))
        for name in takers:
            setattr(mx, name, stop_indices(originals[name]))
        yield
    finally:
        for name, function in originals.items():
            setattr(mx, name, function)


def pad_spatial_crop(inputs: Inputs) -> Inputs:
    """Add the empty entries that end DeepSeek's list of image crops.

    `get_input_embeddings` (deepseek_vl_v2.py:333) reads one entry per tile until it meets an empty one; the
    processor writes one per image, and MLX reads on out of bounds.
    """
    crop = inputs.get("images_spatial_crop")
    if crop is None or inputs.get("pixel_values") is None:
        return inputs
    crop = np.asarray(crop)
    n_missing = inputs["pixel_values"].shape[1] - crop.shape[1]
    padded = np.pad(crop, ((0, 0), (0, max(1, n_missing)), (0, 0)))
    return {**inputs, "images_spatial_crop": padded}


def no_cross_attention(model: nn.Module, tokens: mx.array, inputs: Inputs, fields: Inputs) -> Inputs:
    """Make Mllama's cross-attention layers add nothing to a row without images.

    The published model skips those layers then; mlx-vlm's has no way to skip them for one row of a batch. A zero
    state gives zero values (no biases), and a zero full-row mask silences the gated MLP: the layers add exactly 0.
    """
    if inputs:
        return fields
    length = tokens.shape[1]
    width = model.config.text_config.hidden_size
    return {
        **fields,
        "cross_attention_states": mx.zeros((1, 1, width), dtype=fields["inputs_embeds"].dtype),
        "cross_attention_mask": mx.zeros((1, 1, length, 1)),
        "full_text_row_masked_out_mask": mx.zeros((1, 1, length, 1), dtype=mx.bool_),
    }
