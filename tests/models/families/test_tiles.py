"""Rows of families that cut images into tiles: every image token gets the feature that belongs there."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from PIL import Image

from tests.models.families.conftest import PINPOINTS
from vlora import Example, Sample, Turn
from vlora.models import Encoder
from vlora.models.families.idefics import embed_idefics2
from vlora.models.families.internvl import embed_internvl
from vlora.models.families.llava import embed_llava_onevision
from vlora.models.families.tiles import embed_llava_next, unpadded_slice
from vlora.types import ImageSlot

Checkpoint = Callable[[str], Path]
Encoding = Callable[..., Encoder]
EMBED = {
    "llava_next": embed_llava_next,
    "llava_onevision": embed_llava_onevision,
    "idefics2": embed_idefics2,
    "internvl": embed_internvl,
}
# Parts of the towers that no image feature depends on.
IDLE = {
    "llava_next": ("encoder.layers.1.", "post_layernorm"),
    "llava_onevision": ("post_layernorm",),
    "idefics2": (),
    "internvl": (),
}

every_family = pytest.mark.parametrize("family", EMBED)
sizes = st.tuples(st.integers(8, 200), st.integers(8, 200))


def picture(seed: int, width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encode_images(encode: Encoder, *images: Image.Image) -> Example:
    parts: tuple[str | ImageSlot, ...] = (*(ImageSlot(index) for index in range(len(images))), "What is it?")
    return encode(Sample("row", (Turn("user", parts), Turn("assistant", ("Yes.",))), images))


def embed(family: str, module: nn.Module, example: Example) -> mx.array:
    inputs = {
        name: mx.array(value) if isinstance(value, np.ndarray) else value for name, value in example.inputs.items()
    }
    embeds: mx.array = EMBED[family](module, mx.array(example.tokens)[None], inputs)["inputs_embeds"]
    return embeds


def image_features(family: str, module: nn.Module, encode: Encoder, *images: Image.Image) -> np.ndarray[Any, Any]:
    example = encode_images(encode, *images)
    return np.array(embed(family, module, example))[0, example.tokens == encode.image_id]


@every_family
def test_every_image_counts_for_itself(family: str, model: Callable[[str], nn.Module], encoder: Encoding) -> None:
    """Images of other sizes in the row change nothing about an image's features, which stand in the images' order."""
    images = (picture(0, 48, 32), picture(1, 32, 64), picture(2, 50, 37), picture(3, 150, 130))
    module, encode = model(family), encoder(family)
    alone = [image_features(family, module, encode, image) for image in images]
    together = image_features(family, module, encode, *images)

    assert np.allclose(together, np.concatenate(alone), atol=1e-5)
    assert len({features.tobytes() for features in alone}) == len(images)


@every_family
@settings(max_examples=15)
@given(size=sizes)
def test_features_are_as_many_as_tokens(
    family: str, size: tuple[int, int], model: Callable[[str], nn.Module], encoder: Encoding
) -> None:
    """An image of any size gives as many features as the processor writes tokens, or it could not be embedded."""
    features = image_features(family, model(family), encoder(family), picture(0, *size))

    assert np.isfinite(features).all()


@every_family
def test_text_alone(family: str, model: Callable[[str], nn.Module], encoder: Encoding) -> None:
    """A row without images is embedded by the table."""
    module = model(family)
    example = encoder(family)(Sample("row", (Turn("user", ("Well?",)), Turn("assistant", ("Yes.",))), ()))
    language = module.language_model
    table = language.embed_tokens if family == "idefics2" else language.model.embed_tokens

    assert mx.array_equal(embed(family, module, example), table(mx.array(example.tokens)[None]))


@every_family
def test_gradients_reach_the_tower(family: str, model: Callable[[str], nn.Module], encoder: Encoding) -> None:
    """Every parameter that image features depend on has a gradient, the separators of rows included."""
    module = model(family)
    example = encode_images(encoder(family), picture(0, 48, 32), picture(1, 100, 90))

    def loss(module: nn.Module) -> mx.array:
        return mx.sum(mx.sin(embed(family, module, example)))

    gradients = dict(tree_flatten(nn.value_and_grad(module, loss)(module)[1]))
    idle = [
        name
        for name, value in gradients.items()
        if not name.startswith("language_model") and not mx.abs(value).max().item()
    ]

    assert all(any(part in name for part in IDLE[family]) for name in idle)
    if family.startswith("llava"):
        assert float(mx.abs(gradients["image_newline"]).max()) > 0


@given(sizes, st.sampled_from(PINPOINTS))
def test_unpadding_keeps_the_shape(size: tuple[int, int], canvas: tuple[int, int]) -> None:
    """What is kept of a canvas has the shape of the image, to one row or column on either side."""
    grid = (canvas[0] // 8, canvas[1] // 8)
    rows, columns = unpadded_slice(grid, size)
    height, width = len(range(grid[0])[rows]), len(range(grid[1])[columns])
    scale = min(grid[0] / size[0], grid[1] / size[1])

    assert 0 <= height - math.floor(size[0] * scale + 1e-6) <= 1
    assert 0 <= width - math.floor(size[1] * scale + 1e-6) <= 1
