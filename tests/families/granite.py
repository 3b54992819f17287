"""Granite Vision 3 and 4: a small view of an image and its tiles, their padding cut off, lines with a separator."""

from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace

import numpy as np
from mlx_vlm.models.granite4_vision.processing_granite4_vision import Granite4VisionProcessor
from mlx_vlm.models.granite_vision.processing_granite_vision import GraniteVisionProcessor
from transformers.image_processing_utils import select_best_resolution

from .tiny import Inputs, Row, TinyFamily, noise, words

_IMAGE = 120
_PATCH = 4
_Size = tuple[int, int]


def _pinpoints(side: int) -> list[list[int]]:
    return [[side, 2 * side], [2 * side, side], [2 * side, 2 * side]]


def _rows(generator: np.random.Generator, side: int, count: Callable[[int, int, int, int], int]) -> list[Row]:
    """Make rows of images of some sizes; `count` is the processor's own number of tokens for one."""

    def row(sizes: list[_Size], n_words: int, n_answer: int) -> Row:
        tokens = words(generator, 2)
        views = []
        for height, width in sizes:
            tokens += [_IMAGE] * count(height, width, side, side) + words(generator, 2)
            best = select_best_resolution((height, width), _pinpoints(side))
            views.append(1 + best[0] * best[1] // side**2)
        inputs: Inputs = {}
        if sizes:
            pixels = np.zeros((len(sizes), max(views), 3, side, side), dtype=np.float32)
            for image, n_views in zip(pixels, views, strict=True):
                image[:n_views] = noise(generator, n_views, 3, side, side)
            inputs = {"pixel_values": pixels, "image_sizes": np.array(sizes, dtype=np.int64)}
        tokens += words(generator, n_words)
        return Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=frozenset([_IMAGE]))

    return [row([(20, 50)], 9, 4), row([(70, 31), (16, 16)], 12, 6), row([], 15, 5)]


def _granite_rows(generator: np.random.Generator) -> list[Row]:
    processor = SimpleNamespace(
        image_processor=SimpleNamespace(image_grid_pinpoints=_pinpoints(16)),
        patch_size=_PATCH,
        num_additional_image_tokens=0,
    )
    processor._get_unpadded_features = partial(GraniteVisionProcessor._get_unpadded_features, processor)
    return _rows(generator, 16, partial(GraniteVisionProcessor._get_number_of_features, processor))


def _granite4_rows(generator: np.random.Generator) -> list[Row]:
    processor = SimpleNamespace(
        image_processor=SimpleNamespace(image_grid_pinpoints=_pinpoints(32)),
        patch_size=_PATCH,
        num_additional_image_tokens=0,
        downsample_rate="4/8",
    )
    processor._get_unpadded_features = partial(Granite4VisionProcessor._get_unpadded_features, processor)
    return _rows(generator, 32, partial(Granite4VisionProcessor._get_number_of_features, processor))


_TEXT = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_theta": 10000.0,
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.25,
    "residual_multiplier": 0.5,
    "logits_scaling": 2.0,
}
_TOWER = {
    "model_type": "siglip_vision_model",
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": _PATCH,
}
_IDLE = {
    r"vision_tower\..*\.post_layernorm\.": "the features are taken before it",
    r"vision_tower\.vision_model\.head\.": "the features are those of the patches, not the pooled ones",
}

FAMILIES: Mapping[str, TinyFamily] = {
    "granite_vision": TinyFamily(
        config={
            "model_type": "granite_vision",
            "image_token_index": _IMAGE,
            "image_grid_pinpoints": _pinpoints(16),
            "vision_feature_layer": [-3, -1],
            "text_config": {**_TEXT, "model_type": "granite", "num_hidden_layers": 2},
            "vision_config": {**_TOWER, "hidden_size": 32, "image_size": 16},
        },
        rows=_granite_rows,
        idle=_IDLE,
    ),
    "granite4_vision": TinyFamily(
        config={
            "model_type": "granite4_vision",
            "image_token_index": _IMAGE,
            "image_grid_pinpoints": _pinpoints(32),
            "downsample_rate": "4/8",
            "deepstack_layer_map": [[-2, 1], [-1, 0]],
            "spatial_target_layers": [2, 3, 4, 5],
            "text_config": {
                **_TEXT,
                "model_type": "granitemoehybrid",
                "num_hidden_layers": 6,
                "shared_intermediate_size": 96,
            },
            "vision_config": {**_TOWER, "hidden_size": 64, "image_size": 32},
        },
        rows=_granite4_rows,
        idle={**_IDLE, r"qformer\..*\.key\.bias": "what is added to all keys changes no attention"},
    ),
}
