"""Idefics and SmolVLM. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ...types import BoolArray, IntArray
from ..forward.lm_inputs import LMInputs
from ..forward.merging import scatter_features
from .family import Family, Format, Forward


def embed_idefics2(model: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> LMInputs:
    """Embed a row of Idefics2, whose images keep their shape and are padded to a common size.

    In mlx-vlm the padding takes part (the encoder gets no mask, idefics2/vision.py:196, the resampler has no use for
    one, idefics2/idefics2.py:79), patches count that are partly padding (idefics2/idefics2.py:243), positions are off
    by a row and a column and counted in wrong steps (idefics2/vision.py:135, :149), the tower's activation is another
    one (idefics2/vision.py:8), and so is the last norm's epsilon (idefics2/vision.py:174).
    """
    embeds = model.language_model.embed_tokens(tokens)
    pixels = inputs.get("pixel_values")
    if pixels is None:
        return {"inputs_embeds": embeds}
    pixels = pixels.reshape(-1, *pixels.shape[-3:])
    mask = inputs.get("pixel_attention_mask")
    n_images, _, height, width = pixels.shape
    seen: BoolArray = (
        np.ones((n_images, height, width), np.bool_) if mask is None else np.array(mask).reshape(-1, height, width) > 0
    )
    real = np.flatnonzero(seen.any(axis=(1, 2)))
    size = model.config.vision_config.patch_size
    whole = seen[real, : height // size * size, : width // size * size]
    patches = np.asarray(whole.reshape(len(real), height // size, size, width // size, size).all(axis=(2, 4)))
    states = _encode_idefics2(model.vision_model, pixels[mx.array(real)], patches)
    features = _resample_idefics2(model.connector, states, patches.reshape(len(real), -1))
    is_image = np.array(tokens) == model.config.image_token_index
    return {"inputs_embeds": scatter_features(embeds, features.reshape(-1, features.shape[-1]), is_image)}


def bucket_positions(n_patches: int, n_per_side: int) -> IntArray:
    """Find the learned positions of the patches along one side.

    Args:
        n_patches: How many patches the image has along the side.
        n_per_side: How many positions were learned along it.

    Returns:
        i32[n_patches], patch i at fraction i / n_patches of the side.
    """
    edges = (np.arange(1, n_per_side) / n_per_side).astype(np.float32)
    step = np.float32(1) / np.float32(n_patches)
    places = np.minimum(np.arange(n_patches, dtype=np.float32) * step, np.float32(1 - 1e-6))
    found: IntArray = np.searchsorted(edges, places, side="right").astype(np.int32)
    return found


def _encode_idefics2(tower: nn.Module, pixels: mx.array, patches: BoolArray) -> mx.array:
    """Run the tower: f[N, 3, H, W], bool[N, rows, columns] of patches that are not padding, to f[N, P, D]."""
    n_images, rows, columns = patches.shape
    table = tower.embeddings
    positions = np.zeros((n_images, rows, columns), dtype=np.int32)
    for image, seen in zip(positions, patches, strict=True):
        n_rows, n_columns = int(seen[:, 0].sum()), int(seen[0].sum())
        down, across = (bucket_positions(count, table.num_patches) for count in (n_rows, n_columns))
        image[:n_rows, :n_columns] = down[:, None] * table.num_patches + across
    weight = table.patch_embedding.weight
    hidden = table.patch_embedding(pixels.transpose(0, 2, 3, 1).astype(weight.dtype)).flatten(1, 2)
    hidden = hidden + table.position_embedding(mx.array(positions.reshape(n_images, -1)))
    mask = mx.array(patches.reshape(n_images, 1, 1, -1))
    for layer in tower.encoder.layers:
        attention = layer.self_attn
        normed = layer.layer_norm1(hidden)
        queries, keys, values = (
            _split_heads(projection(normed), attention.num_heads)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        hidden = hidden + attention.out_proj(_attend(queries, keys, values, attention.scale, mask))
        mlp = layer.mlp
        hidden = hidden + mlp.fc2(nn.gelu_approx(mlp.fc1(layer.layer_norm2(hidden))))
    norm = tower.post_layernorm
    return mx.fast.layer_norm(hidden, norm.weight, norm.bias, tower.config.layer_norm_eps)


def _resample_idefics2(connector: nn.Module, states: mx.array, patches: BoolArray) -> mx.array:
    """Run the connector: f[N, P, D], bool[N, P] of patches that are not padding, to f[N, latents, text width]."""
    resampler = connector.perceiver_resampler
    context = connector.modality_projection(states)
    n_images = context.shape[0]
    latents = mx.broadcast_to(resampler.latents[None], (n_images, *resampler.latents.shape)).astype(context.dtype)
    seen = np.concatenate([patches, np.ones((n_images, latents.shape[1]), np.bool_)], axis=1)
    mask = mx.array(seen[:, None, None])
    for layer in resampler.layers:
        attention = layer.self_attn
        normed = layer.input_latents_norm(latents)
        everything = mx.concatenate([layer.input_context_norm(context), normed], axis=1)
        queries = _split_heads(attention.q_proj(normed), attention.n_heads)
        keys = _split_heads(attention.k_proj(everything), attention.n_kv_heads)
        values = _split_heads(attention.v_proj(everything), attention.n_kv_heads)
        latents = latents + attention.o_proj(_attend(queries, keys, values, attention.scale, mask))
        latents = latents + layer.mlp(layer.post_attention_layernorm(latents))
    features: mx.array = resampler.norm(latents)
    return features


def _split_heads(hidden: mx.array, n_heads: int) -> mx.array:
    n_rows, length, _ = hidden.shape
    return hidden.reshape(n_rows, length, n_heads, -1).swapaxes(1, 2)


def _attend(queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: mx.array) -> mx.array:
    mixed = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
    return mixed.swapaxes(1, 2).flatten(2)


FAMILIES: Mapping[str, Family] = {
    "idefics2": Family(
        format=Format(spaces_after_images=True),
        forward=Forward(packs=True, embed=embed_idefics2),
        upstream_differs=(
            "padding of images takes part, and positions are counted in wrong steps (idefics2/vision.py:196, :149)"
        ),
    ),
    "idefics3": Family(forward=Forward(packs=True)),
    "smolvlm": Family(forward=Forward(packs=True)),
}
