"""FastVLM: a convolutional tower; one id per image, replaced by all its features."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
from mlx import nn
from mlx_vlm.models.fastvlm.config import VisionConfig

from .tiny import Row, TinyFamily, noise, words

_IMAGE = -200
_SIDE = 128  # the tower makes one feature of 64 by 64 pixels


@contextmanager
def _small_tower() -> Iterator[None]:
    """Depths and widths of the tower's stages are constants of mlx-vlm's class, not fields."""
    with mock.patch.multiple(VisionConfig, layers=[1, 1, 1, 1, 1], embed_dims=[8, 16, 16, 32, 32]):
        yield


def _bring_back(model: nn.Module) -> None:
    """The random convolutions shrink what depends on the image to a tenth: the projector brings it back."""
    first: Any = model.mm_projector[0]
    first.weight = first.weight * 10


def _rows(generator: np.random.Generator) -> list[Row]:
    def row(n_images: int, n_words: int, n_answer: int) -> Row:
        tokens = words(generator, 2) + [*[_IMAGE], *words(generator, 2)] * n_images + words(generator, n_words)
        inputs = {"pixel_values": noise(generator, n_images, 3, _SIDE, _SIDE)} if n_images else {}
        return Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=frozenset([_IMAGE]))

    return [row(1, 9, 4), row(2, 12, 6), row(0, 15, 5)]


FAMILIES: Mapping[str, TinyFamily] = {
    "fastvlm": TinyFamily(
        config={
            "model_type": "llava_qwen2",
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 128,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
            "mm_hidden_size": 64,
            "mm_projector_type": "mlp2x_gelu",
        },
        rows=_rows,
        prepare=_bring_back,
        while_building=_small_tower,
        idle={r"vision_model\.head\.": "the features are taken before the pooling of the classifier"},
    ),
}
