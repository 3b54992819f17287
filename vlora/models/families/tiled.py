"""How rows of families that cut images into tiles are embedded, where mlx-vlm 0.7.10 does it wrong.

Each function embeds one row: (model, i32[1, T] tokens, the processor's other outputs) to the language model's fields.
All are differentiable with respect to the tower, the connector and the separators of image rows. What the published
models compute is described in their papers and defined by transformers, with which they agree to rounding.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_vlm.models.base import pixel_shuffle
from transformers.image_processing_utils import select_best_resolution

from ...types import BoolArray, IntArray
from ..forward.lm_inputs import LMInputs
from ..forward.overrides import override_attributes, override_call, scatter_features

LLAVA_NEXT_PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
"""The sizes (height, width) to which every published LLaVA-NeXT scales images; mlx-vlm drops them from config.json."""

POOLED_ABOVE = 1.1
"""LLaVA-OneVision pools an image whose sides are longer by this factor than the largest that is kept."""

MOONVIT_EPSILON = 1e-5
CUBIC = -0.75

FloatMatrix = np.ndarray[Any, np.dtype[np.float32]]


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
    return _embed_packed(model, tokens, inputs, pinpoints, None)


def embed_llava_onevision(model: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> LMInputs:
    """Embed a row of LLaVA-OneVision: as LLaVA-NeXT, but large pictures are pooled.

    mlx-vlm cuts the padding off without rounding first (llava_onevision/llava_onevision.py:44), so that some sizes
    give more features than the processor writes tokens. Videos are embedded by the model itself.

    Raises:
        ValueError: The image tokens are not as many as the features.
    """
    n_kept = int(str(model.config.vision_aspect_ratio).removeprefix("anyres_max_"))
    return _embed_packed(model, tokens, inputs, model.config.image_grid_pinpoints, n_kept)


def embed_jina(model: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> LMInputs:
    """Embed a row of Jina-VLM: features are added to the tokens at the places that the processor writes.

    mlx-vlm adds them one by one, reading every place back (jina_vlm/jina_vlm.py:249), and takes a second image of a
    row for another row (:237).
    """
    embeds = model.language_model.embedding(tokens)
    pixels = inputs.get("pixel_values")
    if pixels is None:
        return {"inputs_embeds": embeds}
    features = model.get_image_features(pixels, inputs.get("image_masks"))
    places = np.array(inputs["image_input_idx"]).reshape(-1)
    # Overlapping crops have features for places that another one's stand at; they have no place.
    taken = np.flatnonzero((places >= 0) & (places < tokens.shape[1]))
    source = np.zeros(tokens.shape[1], dtype=np.int32)
    source[places[taken]] = taken
    is_image = np.zeros(tokens.shape[1], dtype=np.bool_)
    is_image[places[taken]] = True
    gathered = features.reshape(-1, features.shape[-1])[mx.array(source)].astype(embeds.dtype)
    return {"inputs_embeds": embeds + mx.where(mx.array(is_image)[:, None], gathered, 0)[None]}


def embed_internvl(model: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> LMInputs:
    """Embed a row of InternVL (the layout of transformers).

    mlx-vlm assigns features to slices (internvl/internvl.py:68), which has no gradient with respect to them, and
    approximates the activation, which is exact in the published models (internvl/internvl.py:21,
    internvl_chat/vision.py:70).
    """
    embeds = model.language_model.model.embed_tokens(tokens)
    pixels = inputs.get("pixel_values")
    if pixels is None:
        return {"inputs_embeds": embeds}
    pixels = pixels.reshape(-1, *pixels.shape[-3:]).transpose(0, 2, 3, 1)
    weight = model.vision_tower.embeddings.patch_embeddings.projection.weight
    with _approximate_gelu("none", model.vision_tower, model.multi_modal_projector):
        states, _ = model.vision_tower(pixels.astype(weight.dtype))
        features = model.multi_modal_projector(pixel_shuffle(states[:, 1:], model.config.downsample_ratio))
    is_image = np.array(tokens) == model.config.image_token_id
    return {"inputs_embeds": scatter_features(embeds, features.reshape(-1, embeds.shape[-1]), is_image)}


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
    """Say at which learned positions the patches of one side stand.

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


def unpadded_slice(grid: tuple[int, int], image_size: tuple[int, int]) -> tuple[slice, slice]:
    """Find the part of a picture of features that is not padding.

    Args:
        grid: (rows, columns) of the features of a canvas into whose middle the image was scaled.
        image_size: (height, width) of the image before.

    Returns:
        The rows and the columns of the image itself.
    """
    rows, columns = grid
    height, width = image_size
    if width / height > columns / rows:
        # Rounded as the processor rounds when it counts tokens.
        margin = (rows - int(round(height * (columns / width), 7))) // 2
        return slice(margin, rows - margin), slice(None)
    margin = (columns - int(round(width * (rows / height), 7))) // 2
    return slice(None), slice(margin, columns - margin)


def resize_bilinear(picture: mx.array, size: tuple[int, int]) -> mx.array:
    """Resize f[H, W, D] to (H', W') as two products, so that the gradient exists on every device."""
    return _resize(picture, _bilinear_matrix(picture.shape[0], size[0]), _bilinear_matrix(picture.shape[1], size[1]))


def resize_bicubic(picture: mx.array, size: tuple[int, int]) -> mx.array:
    """Resize f[H, W, D] to (H', W') as `resize_bilinear`, by cubic convolution with edges repeated."""
    return _resize(picture, _bicubic_matrix(picture.shape[0], size[0]), _bicubic_matrix(picture.shape[1], size[1]))


def _resize(picture: mx.array, rows: FloatMatrix, columns: FloatMatrix) -> mx.array:
    halfway = mx.tensordot(mx.array(rows), picture.astype(mx.float32), axes=1)
    resized: mx.array = mx.tensordot(mx.array(columns), halfway, axes=[[1], [1]]).swapaxes(0, 1)
    return resized.astype(picture.dtype)


def _bilinear_matrix(n_from: int, n_to: int) -> FloatMatrix:
    places = np.maximum((np.arange(n_to) + 0.5) * (n_from / n_to) - 0.5, 0)
    below = np.minimum(places.astype(np.int64), n_from - 1)
    above = np.minimum(below + 1, n_from - 1)
    share = places - below
    matrix = np.zeros((n_to, n_from))
    np.add.at(matrix, (np.arange(n_to), below), 1 - share)
    np.add.at(matrix, (np.arange(n_to), above), share)
    return matrix.astype(np.float32)


def _bicubic_matrix(n_from: int, n_to: int) -> FloatMatrix:
    places = (np.arange(n_to) + 0.5) * (n_from / n_to) - 0.5
    matrix = np.zeros((n_to, n_from))
    for offset in (-1, 0, 1, 2):
        near = np.floor(places) + offset
        far = np.abs(places - near)
        # Keys' kernel; torch takes a = -0.75.
        inner = (CUBIC + 2) * far**3 - (CUBIC + 3) * far**2 + 1
        outer = CUBIC * (far**3 - 5 * far**2 + 8 * far - 4)
        np.add.at(
            matrix,
            (np.arange(n_to), np.clip(near.astype(np.int64), 0, n_from - 1)),
            np.where(far <= 1, inner, np.where(far < 2, outer, 0)),  # noqa: PLR2004 - the kernel's reach
        )
    return matrix.astype(np.float32)


def _embed_packed(
    model: nn.Module, tokens: mx.array, inputs: dict[str, Any], pinpoints: Sequence[Sequence[int]], n_kept: int | None
) -> LMInputs:
    """Embed a row whose images are a small view and a picture of tiles; `n_kept` tiles are not pooled."""
    pixels = inputs.get("pixel_values")
    if pixels is None:
        fields: LMInputs = model.get_input_embeddings(tokens, None, **inputs).to_dict()
        return {name: value for name, value in fields.items() if value is not None}
    embeds = model.language_model.model.embed_tokens(tokens)
    config = model.config
    states, images = _look(model, inputs, pinpoints)
    layers = config.vision_feature_layer
    chosen = [states[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
    features = model.multi_modal_projector(_without_class(config, mx.concatenate(chosen, axis=-1)))
    is_image = np.array(tokens) == config.image_token_index
    packed = _pack_all(features, images, model.image_newline, n_kept)
    return {"inputs_embeds": scatter_features(embeds, packed, is_image)}


class _Views(NamedTuple):
    """An image's size in pixels, its tiles (down, across), and how many views of it the tower sees."""

    size: tuple[int, int]
    grid: tuple[int, int]
    n_views: int


def _look(
    model: nn.Module, inputs: dict[str, Any], pinpoints: Sequence[Sequence[int]]
) -> tuple[Sequence[mx.array], list[_Views]]:
    """Run the tower on all views of all images: (every layer's f[views, P, D], the images)."""
    sizes = [(int(height), int(width)) for height, width in np.array(inputs["image_sizes"]).reshape(-1, 2)]
    grids = [_choose_grid(size, pinpoints, model.config.vision_config.image_size) for size in sizes]
    # Several images in one conversation are not cut, if the processor was given them as one conversation's.
    n_together = np.array(inputs.get("batch_num_images", np.ones(len(sizes)))).astype(np.int64)
    is_cut = np.repeat(n_together == 1, n_together)
    images = [
        _Views(size, grid, 1 + grid[0] * grid[1] if cut else 1)
        for size, grid, cut in zip(sizes, grids, is_cut, strict=True)
    ]
    views = mx.concatenate(
        [pixels[: image.n_views] for pixels, image in zip(inputs["pixel_values"], images, strict=True)]
    )
    *_, states = model.vision_tower(views.transpose(0, 2, 3, 1), output_hidden_states=True)
    return states, images


def _without_class(config: Any, features: mx.array) -> mx.array:
    return features[:, 1:] if config.vision_feature_select_strategy == "default" else features


def _pack_all(features: mx.array, images: Sequence[_Views], newline: mx.array | None, n_kept: int | None) -> mx.array:
    """Put all images' views in the order of their tokens: f[views, P, D] to f[N, D]."""
    packed, start = [], 0
    for image in images:
        packed.append(_pack(features[start : start + image.n_views], image.grid, image.size, newline, n_kept))
        start += image.n_views
    return mx.concatenate(packed)


def embed_granite4(model: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> LMInputs:
    """Embed a row of Granite 4 Vision: image tokens are zero, and features of their own are added before some layers.

    mlx-vlm reads the first image only (granite4_vision/granite4_vision.py:164), cuts the padding off without rounding
    first (:37), and repeats the last feature where it has fewer than tokens (:257).

    Raises:
        ValueError: The image tokens are not as many as the features.
    """
    embeds = model.language_model.model.embed_tokens(tokens)
    if inputs.get("pixel_values") is None:
        return {"inputs_embeds": embeds}
    config = model.config
    states, images = _look(model, inputs, config.image_grid_pinpoints)
    is_image = np.array(tokens) == config.image_token_index
    projected = [
        projector(_without_class(config, states[layer]))
        for (layer, _), projector in zip(config.deepstack_layer_map or (), model.layerwise_projectors, strict=True)
    ]
    if config.use_spatial_sampling:
        features = _without_class(config, states[config.spatial_vision_layer])
        projected += [
            projector(features)
            for _, projector in zip(config.spatial_target_layers or (), model.spatial_projectors, strict=False)
        ]
    nothing = mx.zeros_like(embeds)
    return {
        "inputs_embeds": mx.where(mx.array(is_image)[..., None], nothing, embeds),
        "visual_pos_masks": mx.array(is_image),
        "deepstack_visual_embeds": [
            scatter_features(nothing, _pack_all(features, images, model.image_newline, None), is_image)
            for features in projected
        ],
    }


def _choose_grid(size: tuple[int, int], pinpoints: Sequence[Sequence[int]], tile: int) -> tuple[int, int]:
    height, width = select_best_resolution(size, [tuple(point) for point in pinpoints])
    return height // tile, width // tile


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


@contextmanager
def match_reference_moonvit(model: nn.Module) -> Iterator[None]:
    """Give Kimi-VL's tower the activation, the epsilon and the interpolation that it was trained with.

    mlx-vlm has the exact activation (kimi_vl/vision.py:228), a smaller epsilon (:241, :409), and positions that are
    interpolated as if there were nothing beyond the border (models/kernels.py:166; on Metal a kernel without gradient).
    """
    table = model.vision_tower.patch_embed.pos_emb

    def positions(shape: tuple[int, int]) -> mx.array:
        return resize_bicubic(table.weight, shape).flatten(0, 1)

    with _moonvit_numbers(model.vision_tower), override_attributes(table, _get_pos_emb=positions):
        yield


@contextmanager
def match_reference_moonvit_3d(model: nn.Module) -> Iterator[None]:
    """Give Kimi K2.5's tower the activation, the epsilon and the interpolation that it was trained with.

    As Kimi-VL's: kimi_k25/vision.py:245 (activation), :258, :444 (epsilon), :101 (positions). Videos keep mlx-vlm's.
    """
    table = model.vision_tower.patch_embed.pos_emb
    own = type(table).__call__

    def add_positions(patches: mx.array, grids: mx.array) -> mx.array:
        if grids.shape[1] != 2:  # noqa: PLR2004 - height and width; videos have a third
            added: mx.array = own(table, patches, grids)
            return added
        shapes = [(int(height), int(width)) for height, width in np.array(grids)]
        positions = [resize_bicubic(table.weight, shape).flatten(0, 1) for shape in shapes]
        return mx.add(patches, mx.concatenate(positions).astype(patches.dtype))

    with _moonvit_numbers(model.vision_tower), override_call(table, add_positions):
        yield


def match_reference_intern_vit(model: nn.Module) -> AbstractContextManager[None]:
    """Give InternVL's tower the exact activation that it was trained with (internvl_chat/vision.py:70)."""
    return _approximate_gelu("none", model.vision_model)


@contextmanager
def _moonvit_numbers(tower: nn.Module) -> Iterator[None]:
    norms = [module for _, module in tower.named_modules() if isinstance(module, nn.LayerNorm)]
    before = [norm.eps for norm in norms]
    try:
        for norm in norms:
            norm.eps = MOONVIT_EPSILON
        with _approximate_gelu("tanh", tower):
            yield
    finally:
        for norm, own in zip(norms, before, strict=True):
            norm.eps = own


@contextmanager
def match_reference_qwen3_activations(model: nn.Module) -> Iterator[None]:
    """Give the tower of Qwen3-VL's mixtures the activations that it was trained with.

    The layers approximate (`hidden_act` of the configuration), the mergers do not. mlx-vlm has it the other way round
    in qwen3_vl_moe (qwen3_vl_moe/vision.py:109, :163) and exact everywhere in qwen3_omni_moe
    (qwen3_omni_moe/vision.py:163).
    """
    parts = dict(model.named_modules())
    tower = next(parts[name] for name in sorted(parts, key=len) if name.endswith("vision_tower"))
    mergers = (tower.merger, *tower.deepstack_merger_list)
    with _approximate_gelu("tanh", *tower.blocks), _approximate_gelu("none", *mergers):
        yield


@contextmanager
def _approximate_gelu(approximation: str, *parts: nn.Module) -> Iterator[None]:
    """Let activations be approximated so ("none": not at all), and as they were afterwards."""
    activations = [module for part in parts for _, module in part.named_modules() if isinstance(module, nn.GELU)]
    before = [activation._approx for activation in activations]  # noqa: SLF001 - it has no other switch
    try:
        for activation in activations:
            activation._approx = approximation  # noqa: SLF001
        yield
    finally:
        for activation, own in zip(activations, before, strict=True):
            activation._approx = own  # noqa: SLF001


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
