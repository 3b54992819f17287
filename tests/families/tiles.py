"""Families that cut an image into tiles of one size and put each tile's features in the place of its tokens."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from mlx_vlm.models.jina_vlm.image_processor import ImageProcessor

from .tiny import Inputs, Row, TinyFamily, noise, words

_IMAGE, _START, _END, _COLUMN = 120, 121, 122, 123
_PATCH = 4
_SIDE = 16
_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "rms_norm_eps": 1e-6,
}
_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": _PATCH,
    "image_size": _SIDE,
}


def _row(generator: np.random.Generator, tiles: list[int], n_features: int, n_words: int, n_answer: int) -> Row:
    """Make a row with images of some numbers of tiles."""
    tokens = words(generator, 2)
    for count in tiles:
        tokens += [_START, *[_IMAGE] * (n_features * count), _END, *words(generator, 2)]
    inputs: Inputs = {"pixel_values": noise(generator, sum(tiles), 3, _SIDE, _SIDE)} if tiles else {}
    tokens += words(generator, n_words)
    return Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=frozenset([_IMAGE]))


def _shuffled_rows(generator: np.random.Generator) -> list[Row]:
    """Four patches to one feature; the first image is cut, a small view of it stands behind the tiles."""
    return [_row(generator, *row) for row in (([3], 4, 9, 4), ([1, 3], 4, 12, 6), ([], 4, 15, 5))]


def _whole_rows(generator: np.random.Generator) -> list[Row]:
    """One feature of every patch."""
    return [_row(generator, *row) for row in (([1], 16, 9, 4), ([1, 2], 16, 12, 6), ([], 16, 15, 5))]


def _internvl_rows(generator: np.random.Generator) -> list[Row]:
    """Tiles behind a dimension of one, and the id that stands for them, which config.json does not have."""
    rows = _shuffled_rows(generator)
    for row in rows:
        if row.inputs:
            pixels = row.inputs["pixel_values"]
            row.inputs.update(pixel_values=pixels[None], image_token_index=_IMAGE)
    return rows


def _jina_rows(generator: np.random.Generator) -> list[Row]:
    """A small view and overlapping crops by the family's own image processor, the places of their features."""
    ids = {"patch_token_id": _IMAGE, "start_token_id": _START, "end_token_id": _END, "column_token_id": _COLUMN}
    process = ImageProcessor(
        base_input_size=(24, 24), patch_size=_PATCH, max_crops=4, min_pixels=64, overlap_margins=(2, 2), **ids
    ).process_image

    def row(sizes: list[tuple[int, int]], n_words: int, n_answer: int) -> Row:
        tokens = words(generator, 2)
        images = []
        for height, width in sizes:
            image = process(generator.integers(0, 256, (height, width, 3)).astype(np.uint8))
            images.append({**image, "image_input_idx": image["image_input_idx"] + len(tokens)})
            tokens += [*image["image_tokens"].tolist(), *words(generator, 2)]
        names = ("pixel_values", "image_input_idx", "image_masks") if images else ()
        inputs: Inputs = {name: np.stack([image[name] for image in images]) for name in names}
        tokens += words(generator, n_words)
        return Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=frozenset(ids.values()))

    return [row([(20, 24)], 9, 4), row([(24, 32), (24, 32)], 12, 6), row([], 15, 5)]


_INTERNVL: dict[str, Any] = {
    "model_type": "internvl_chat",
    "downsample_ratio": 0.5,
    "vision_config": {**_TOWER, "model_type": "intern_vit_6b", "drop_path_rate": 0.1},
    "text_config": {**_TEXT, "model_type": "qwen2"},
}

FAMILIES: Mapping[str, TinyFamily] = {
    "internvl_chat": TinyFamily(config=_INTERNVL, rows=_internvl_rows),
    "internvl_chat-qwen3": TinyFamily(
        config={
            **_INTERNVL,
            "vision_config": {
                **_INTERNVL["vision_config"],
                "norm_type": "rms_norm",
                "qk_normalization": True,
                "qkv_bias": False,
            },
            "text_config": {**_TEXT, "model_type": "qwen3", "head_dim": 24, "attention_bias": False},
        },
        rows=_internvl_rows,
    ),
    "llmjpvl": TinyFamily(
        config={
            "model_type": "llmjpvl",
            "img_context_token_id": _IMAGE,
            "text_config": {**_TEXT, "model_type": "llama", "rope_theta": 10000.0},
            "vision_config": {**_TOWER, "model_type": "siglip_vision_model"},
        },
        rows=_shuffled_rows,
    ),
    "plamo2vl": TinyFamily(
        config={
            "model_type": "plamo2vl",
            "text_config": {
                **_TEXT,
                "model_type": "plamo2",
                "num_hidden_layers": 3,
                "hidden_size_per_head": 16,
                "mamba_num_heads": 4,
                "mamba_d_state": 16,
                "rope_theta": 10000.0,
                "full_attention_idx": [1],
            },
            "vision_config": {
                "image_token_id": _IMAGE,
                "image_feature_size": 32,
                "image_proj_hidden_size": 48,
                **{f"vision_encoder_{name}": value for name, value in _TOWER.items()},
            },
        },
        rows=_whole_rows,
    ),
    "jina_vlm": TinyFamily(
        config={
            "model_type": "jina_vlm",
            "text_config": {
                **_TEXT,
                "model_type": "jina_vlm",
                "head_dim": 16,
                "vocab_size": 128,
                "additional_vocab_size": 8,
                "rope_theta": 10000.0,
            },
            "vision_config": {
                **_TOWER,
                "model_type": "jina_vlm",
                "num_hidden_layers": 3,
                "head_dim": 16,
                "image_size": 24,
                "vit_layers": [-2, -4],
                "output_size": 64,
                "connector_hidden_size": 48,
            },
        },
        rows=_jina_rows,
        idle={
            r"vision_model\.post_norm\.": "the features are taken before it",
            r"language_model\.embedding\.new_embedding": "what it has for an image is replaced by other tokens",
            r"vl_connector\.pad_embed": "images are resized to whole crops: no patch is padding",
        },
    ),
}
