"""Phi-3-vision: tiles of 336 pixels through a CLIP tower; negative ids, one value per image, stand for features."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx_vlm.models.phi3_v.vision import VisionModel

from .tiny import Row, TinyFamily, noise, words

_SIDE = 336
_WIDTH = 32
_CLIP = SimpleNamespace(
    model_type="phi3_v",
    hidden_size=_WIDTH,
    image_size=_SIDE,
    intermediate_size=64,
    layer_norm_eps=1e-5,
    num_attention_heads=2,
    num_channels=3,
    num_hidden_layers=2,
    patch_size=14,
)
"""The tower's width and depth are constants of mlx-vlm's class; tiles of 24 by 24 patches are constants of its code."""


def _narrow(vision: nn.Module, width: int) -> None:
    """Fit what lies behind the tower, which is made for a width of 1024, to another one."""
    vision.image_dim_out = _WIDTH
    vision.glb_GN, vision.sub_GN = mx.zeros((1, 1, 4 * _WIDTH)), mx.zeros((1, 1, 1, 4 * _WIDTH))
    vision.img_projection[0] = nn.Linear(4 * _WIDTH, width)


@contextmanager
def _small_tower() -> Iterator[None]:
    original = VisionModel.__init__

    def initialize(self: nn.Module, config: Any) -> None:
        original(self, config)
        _narrow(self, config.hidden_size)

    with mock.patch.multiple(VisionModel, CLIP_VIT_LARGE_PATCH14_336_CONFIG=_CLIP, __init__=initialize):
        yield


def _rows(generator: np.random.Generator) -> list[Row]:
    def row(sizes: list[tuple[int, int]], n_words: int, n_answer: int) -> Row:
        """Make a row with images of some numbers of tiles (down, across)."""
        tokens = words(generator, 2)
        inputs = {}
        for number, (down, across) in enumerate(sizes, start=1):
            n_features = (down * across + 1) * 144 + 1 + (down + 1) * 12
            tokens += [-number] * n_features + words(generator, 2)
        if sizes:
            most = max(down * across for down, across in sizes) + 1
            pixels = np.zeros((len(sizes), most, 3, _SIDE, _SIDE), dtype=np.float32)
            for image, (down, across) in enumerate(sizes):
                pixels[image, : down * across + 1] = noise(generator, down * across + 1, 3, _SIDE, _SIDE)
            inputs = {"pixel_values": pixels, "image_sizes": np.array(sizes, dtype=np.int64) * _SIDE}
        tokens += words(generator, n_words)
        placeholders = frozenset(-number - 1 for number in range(len(sizes)))
        return Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=placeholders)

    return [row([(1, 1)], 9, 4), row([(1, 1), (1, 2)], 12, 6), row([], 15, 5)]


FAMILIES: Mapping[str, TinyFamily] = {
    "phi3_v": TinyFamily(
        config={
            "model_type": "phi3_v",
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 128,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 512,
            "rope_scaling": {
                "type": "su",
                "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
                "long_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5],
            },
            "text_config": {"max_position_embeddings": 4096},
            "vision_config": {"model_type": "phi3_v", "image_dim_out": 1024},
        },
        rows=_rows,
        while_building=_small_tower,
        idle={
            r"vision_embed_tokens\..*\.encoder\.layers\.1\.": "the features are those of the last layer but one",
            r"vision_embed_tokens\..*\.post_layernorm\.": "the features are taken before it",
        },
    ),
}
