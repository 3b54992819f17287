"""Families with one id per image, replaced by all its features: Bunny, Phi-4-reasoning-vision, Phi-4-multimodal."""

from collections.abc import Mapping

import numpy as np

from .tiny import Inputs, Row, TinyFamily, noise, words

_IMAGE = -200
_PATCH = 4
_Grid = tuple[int, int]


def _row(generator: np.random.Generator, n_images: int, inputs: Inputs, n_words: int, n_answer: int) -> Row:
    tokens = words(generator, 2) + [_IMAGE, *words(generator, 2)] * n_images + words(generator, n_words)
    return Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=frozenset([_IMAGE]))


def _square_rows(generator: np.random.Generator) -> list[Row]:
    """Images of one size, of 16 patches."""

    def row(n_images: int, n_words: int, n_answer: int) -> Row:
        inputs: Inputs = {"pixel_values": noise(generator, n_images, 3, 16, 16)} if n_images else {}
        return _row(generator, n_images, inputs, n_words, n_answer)

    return [row(1, 9, 4), row(2, 12, 6), row(0, 15, 5)]


def _patch_rows(generator: np.random.Generator) -> list[Row]:
    """Patches of images of any shape, padded to one number of patches."""

    def row(grids: list[_Grid], n_words: int, n_answer: int) -> Row:
        inputs: Inputs = {}
        if grids:
            pixels = np.zeros((len(grids), 24, 3 * _PATCH**2), dtype=np.float32)
            seen = np.zeros((len(grids), 24), dtype=np.int32)
            for image, mask, (height, width) in zip(pixels, seen, grids, strict=True):
                image[: height * width] = noise(generator, height * width, 3 * _PATCH**2)
                mask[: height * width] = 1
            inputs = {
                "pixel_values": pixels,
                "pixel_attention_mask": seen,
                "spatial_shapes": np.array(grids, dtype=np.int64),
            }
        return _row(generator, len(grids), inputs, n_words, n_answer)

    return [row([(4, 4)], 9, 4), row([(4, 6), (2, 4)], 12, 6), row([], 15, 5)]


_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}
_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": _PATCH,
}
_LAST_BUT_ONE = {
    r"vision_tower\..*\.layers\.2\.": "the features are those of the last layer but one",
    r"vision_tower\..*\.post_layernorm\.": "the features are taken before it",
}

FAMILIES: Mapping[str, TinyFamily] = {
    "llava_bunny": TinyFamily(
        config={
            "model_type": "llava-qwen2",
            "auto_map": {},
            "mm_hidden_size": 32,
            **_TEXT,
            "tie_word_embeddings": False,
            "vision_config": {**_TOWER, "image_size": 16},
        },
        rows=_square_rows,
        idle={
            r"vision_tower\..*\.post_layernorm\.": "the features are taken before it",
            r"vision_tower\..*\.head\.": "the features are those of the patches, not the pooled ones",
        },
    ),
    "phi4_siglip": TinyFamily(
        config={
            "model_type": "phi4-siglip",
            "text_config": {**_TEXT, "model_type": "phi4-siglip"},
            "mm_hidden_size": 32,
            "vision_config": {**_TOWER, "model_type": "siglip2_vision_model", "num_patches": 16},
        },
        rows=_patch_rows,
        idle=_LAST_BUT_ONE,
    ),
    "phi4mm": TinyFamily(
        config={
            "model_type": "phi4mm",
            **_TEXT,
            "mm_hidden_size": 32,
            "vision_config": {**_TOWER, "model_type": "siglip2_vision_model", "image_size": 16},
            "audio_processor": {
                "config": {
                    "attention_dim": 32,
                    "attention_heads": 2,
                    "num_blocks": 1,
                    "linear_units": 32,
                    "conv_channels": 16,
                    "ext_pw_out_channel": 32,
                    "depthwise_seperable_out_channel": 32,
                }
            },
        },
        rows=_patch_rows,
        idle=_LAST_BUT_ONE,
    ),
}
