"""Images as a small view and a grid of tiles, as LLaVA-NeXT and its descendants embed them.

Everything is differentiable with respect to the tower, the connector and the separators of image rows. Results agree
with transformers up to rounding.
Files and lines are those of mlx-vlm 0.7.10.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from transformers.image_processing_utils import select_best_resolution

from ..forward.lm_inputs import LMInputs
from ..forward.merging import scatter_features
from ..forward.resize import resize_bilinear

LLAVA_NEXT_PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
"""The sizes (height, width) to which every published LLaVA-NeXT scales images; mlx-vlm drops them from config.json."""


POOLED_ABOVE = 1.1
"""LLaVA-OneVision pools an image whose sides are longer by this factor than the largest that is kept."""


def embed_llava_next(model: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> LMInputs:
    """Embed a row of LLaVA-NeXT: an image's small view, then its tiles as one picture, row by row.

    mlx-vlm puts one whole tile in the place of every image token (llava_next/llava_next.py:118), takes the first
    image's tiles only (:67), does not cut the padding off, and appends tiles of separators that belong into the
    picture (:90). Granite Vision is a LLaVA-NeXT with the same faults (granite_vision/granite_vision.py:134, :77,
    :108).

    Raises:
        ValueError: The image tokens are not as many as the features.
    """
    pinpoints = getattr(model.config, "image_grid_pinpoints", None) or LLAVA_NEXT_PINPOINTS
    return embed_packed(model, tokens, inputs, pinpoints, None)


def embed_packed(
    model: nn.Module, tokens: mx.array, inputs: dict[str, Any], pinpoints: Sequence[Sequence[int]], n_kept: int | None
) -> LMInputs:
    """Embed a row whose images are a small view and a grid of tiles; up to `n_kept` tiles are not pooled."""
    pixels = inputs.get("pixel_values")
    if pixels is None:
        fields: LMInputs = model.get_input_embeddings(tokens, None, **inputs).to_dict()
        return {name: value for name, value in fields.items() if value is not None}
    embeds = model.language_model.model.embed_tokens(tokens)
    config = model.config
    states, images = encode_views(model, inputs, pinpoints)
    layers = config.vision_feature_layer
    chosen = [states[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
    features = model.multi_modal_projector(without_class_token(config, mx.concatenate(chosen, axis=-1)))
    is_image = np.array(tokens) == config.image_token_index
    packed = pack_views(features, images, model.image_newline, n_kept)
    return {"inputs_embeds": scatter_features(embeds, packed, is_image)}


class Views(NamedTuple):
    """An image's size in pixels, its tiles (down, across), and how many views of it the tower sees."""

    size: tuple[int, int]
    grid: tuple[int, int]
    n_views: int


def encode_views(
    model: nn.Module, inputs: dict[str, Any], pinpoints: Sequence[Sequence[int]]
) -> tuple[Sequence[mx.array], list[Views]]:
    """Run the tower on all views of all images: (every layer's f[views, P, D], the images)."""
    sizes = [(int(height), int(width)) for height, width in np.array(inputs["image_sizes"]).reshape(-1, 2)]
    grids = [_choose_grid(size, pinpoints, model.config.vision_config.image_size) for size in sizes]
    # Images are not tiled if the processor got several of them as one conversation.
    n_together = np.array(inputs.get("batch_num_images", np.ones(len(sizes)))).astype(np.int64)
    is_cut = np.repeat(n_together == 1, n_together)
    images = [
        Views(size, grid, 1 + grid[0] * grid[1] if cut else 1)
        for size, grid, cut in zip(sizes, grids, is_cut, strict=True)
    ]
    views = mx.concatenate(
        [pixels[: image.n_views] for pixels, image in zip(inputs["pixel_values"], images, strict=True)]
    )
    *_, states = model.vision_tower(views.transpose(0, 2, 3, 1), output_hidden_states=True)
    return states, images


def without_class_token(config: Any, features: mx.array) -> mx.array:
    """Drop a tower's first token if the configuration says so: f[views, P, D]."""
    return features[:, 1:] if config.vision_feature_select_strategy == "default" else features


def pack_views(features: mx.array, images: Sequence[Views], newline: mx.array | None, n_kept: int | None) -> mx.array:
    """Put all images' views in the order of their tokens: f[views, P, D] to f[N, D]."""
    packed, start = [], 0
    for image in images:
        packed.append(_pack(features[start : start + image.n_views], image.grid, image.size, newline, n_kept))
        start += image.n_views
    return mx.concatenate(packed)


def _choose_grid(size: tuple[int, int], pinpoints: Sequence[Sequence[int]], tile: int) -> tuple[int, int]:
    height, width = select_best_resolution(size, [tuple(point) for point in pinpoints])
    return height // tile, width // tile


def unpadded_slice(grid: tuple[int, int], image_size: tuple[int, int]) -> tuple[slice, slice]:
    """Find the part of a grid of features that is not padding.

    Args:
        grid: (rows, columns) of the features of a canvas into whose middle the image was scaled.
        image_size: (height, width) of the image before.

    Returns:
        The rows and the columns of the image itself.
    """
    rows, columns = grid
    height, width = image_size
    if width / height > columns / rows:
        # Rounded like the processor's count of tokens.
        margin = (rows - int(round(height * (columns / width), 7))) // 2
        return slice(margin, rows - margin), slice(None)
    margin = (columns - int(round(width * (rows / height), 7))) // 2
    return slice(None), slice(margin, columns - margin)


def _pack(
    views: mx.array, grid: tuple[int, int], size: tuple[int, int], newline: mx.array | None, n_kept: int | None
) -> mx.array:
    """Put an image's views in the order of its tokens: f[1 + tiles, P, D] to f[N, D]."""
    small, tiles = views[0], views[1:]
    width = small.shape[-1]
    separator = mx.zeros((0, width)) if newline is None else newline[None]
    separator = separator.astype(small.dtype)
    if not tiles.shape[0]:
        return mx.concatenate([small, separator])
    side = round(float(small.shape[0]) ** 0.5)
    picture = tiles.reshape(*grid, side, side, width).transpose(0, 2, 1, 3, 4)
    picture = picture.reshape(grid[0] * side, grid[1] * side, width)
    picture = picture[unpadded_slice((grid[0] * side, grid[1] * side), size)]
    rows, columns, _ = picture.shape
    if n_kept is not None:
        ratio = (rows * columns / (n_kept * side**2)) ** 0.5
        if ratio > POOLED_ABOVE:
            picture = resize_bilinear(picture, (int(rows // ratio), int(columns // ratio)))
    separators = mx.broadcast_to(separator[None], (picture.shape[0], *separator.shape))
    return mx.concatenate([small, mx.concatenate([picture, separators], axis=1).reshape(-1, width)])
