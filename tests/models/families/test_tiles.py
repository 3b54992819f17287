"""Rows of families that cut images into tiles: every image token gets the feature that belongs there."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn
import mlx_vlm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from PIL import Image

from vlora import Example, Sample, Turn
from vlora.models import Encoder
from vlora.models.families.idefics import bucket_positions, embed_idefics2
from vlora.models.families.internvl import embed_internvl
from vlora.models.families.kimi import match_reference_moonvit
from vlora.models.families.llava import embed_llava_onevision
from vlora.models.families.qwen import match_reference_qwen3_activations
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
PINPOINTS = ((32, 64), (64, 32), (64, 64), (96, 32), (32, 96))

every_family = pytest.mark.parametrize("family", EMBED)
sizes = st.tuples(st.integers(8, 200), st.integers(8, 200))


def picture(seed: int, width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> Callable[[str], nn.Module]:
    """Load a family's model once, with what mlx-vlm drops of its configuration."""
    loaded: dict[str, nn.Module] = {}

    def load(family: str) -> nn.Module:
        if family not in loaded:
            loaded[family] = mlx_vlm.utils.load_model(checkpoint(family))
            if family == "llava_next":
                loaded[family].config.image_grid_pinpoints = PINPOINTS
        return loaded[family]

    return load


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


def test_llava_next_order(model: Callable[[str], nn.Module], encoder: Encoding) -> None:
    """A wide image is its small view, then its tiles side by side, each row of features ended by the separator."""
    module, encode = model("llava_next"), encoder("llava_next")
    features = image_features("llava_next", module, encode, picture(0, 64, 32))
    n_small, rows, columns = 16, 4, 8
    lines = features[n_small:].reshape(rows, columns + 1, -1)
    pixels = encode_images(encode, picture(0, 64, 32)).inputs["pixel_values"][0]
    *_, states = module.vision_tower(mx.array(pixels).transpose(0, 2, 3, 1), output_hidden_states=True)
    small, left, right = np.array(module.multi_modal_projector(states[-2][:, 1:]))

    assert np.allclose(features[:n_small], small, atol=1e-5)
    assert np.allclose(lines[:, :4], left.reshape(4, 4, -1), atol=1e-5)
    assert np.allclose(lines[:, 4:8], right.reshape(4, 4, -1), atol=1e-5)
    assert np.array_equal(lines[:, 8], np.broadcast_to(np.array(module.image_newline), lines[:, 8].shape))


def test_idefics2_padding_is_invisible(model: Callable[[str], nn.Module], encoder: Encoding) -> None:
    """What stands in the padding of an image changes nothing."""
    module = model("idefics2")
    example = encode_images(encoder("idefics2"), picture(0, 48, 32), picture(1, 32, 64))
    seen = example.inputs["pixel_attention_mask"][0].astype(bool)
    noise = np.random.default_rng(0).standard_normal(example.inputs["pixel_values"].shape).astype(np.float32)
    filled = {**example.inputs, "pixel_values": np.where(seen[None, :, None], example.inputs["pixel_values"], noise)}
    before = embed("idefics2", module, example)
    arrays = {name: mx.array(value) for name, value in filled.items()}

    after = embed_idefics2(module, mx.array(example.tokens)[None], arrays)["inputs_embeds"]

    assert not seen.all()
    assert np.allclose(np.array(after), np.array(before), atol=1e-5)


def test_internvl_activations_are_put_back(model: Callable[[str], nn.Module], encoder: Encoding) -> None:
    """Embedding leaves the model as it was, activations too, even if it fails."""
    module = model("internvl")
    activation = module.multi_modal_projector.activation
    example = encode_images(encoder("internvl"), picture(0, 48, 32))
    embed("internvl", module, example)
    assert activation._approx == "precise"

    example = attrs.evolve(example, inputs={**example.inputs, "pixel_values": np.zeros((1, 1, 4, 32, 32), np.float32)})
    with pytest.raises(ValueError, match="channels"):
        embed("internvl", module, example)
    assert activation._approx == "precise"


@given(st.integers(1, 70), st.integers(1, 70))
def test_positions_keep_the_picture(n_patches: int, n_per_side: int) -> None:
    """Patches stand at the fraction of the side where they are in the picture, however many there are."""
    found = bucket_positions(n_patches, n_per_side)

    exact = np.arange(n_patches) * n_per_side / n_patches
    assert (np.abs(found - np.floor(exact)) <= (np.abs(exact - np.round(exact)) < 1e-4)).all()
    assert found[0] == 0
    assert found[-1] < n_per_side


@given(sizes, st.sampled_from(PINPOINTS))
def test_unpadding_keeps_the_shape(size: tuple[int, int], canvas: tuple[int, int]) -> None:
    """What is kept of a canvas has the shape of the image, to one row or column on either side."""
    grid = (canvas[0] // 8, canvas[1] // 8)
    rows, columns = unpadded_slice(grid, size)
    height, width = len(range(grid[0])[rows]), len(range(grid[1])[columns])
    scale = min(grid[0] / size[0], grid[1] / size[1])

    assert 0 <= height - math.floor(size[0] * scale + 1e-6) <= 1
    assert 0 <= width - math.floor(size[1] * scale + 1e-6) <= 1


def test_moonvit(model: Callable[[str], nn.Module], encoder: Encoding) -> None:
    """Kimi-VL's tower is another one while it embeds, differentiable in its positions, and what it was afterwards."""
    module = model("kimi_vl")
    example = encode_images(encoder("kimi_vl"), picture(0, 60, 90), picture(1, 64, 30))
    pixels, grids = (mx.array(example.inputs[name]) for name in ("pixel_values", "image_grid_hws"))

    def features(module: nn.Module) -> mx.array:
        return mx.concatenate([part.flatten() for part in module.vision_tower(pixels.transpose(0, 2, 3, 1), grids)])

    before = features(module)
    with match_reference_moonvit(module):
        corrected = features(module)
        gradients = dict(
            tree_flatten(nn.value_and_grad(module, lambda module: mx.sum(mx.sin(features(module))))(module)[1])
        )

    assert 1e-4 < float(mx.abs(corrected - before).max()) < 0.1
    assert mx.array_equal(features(module), before)
    assert all(float(mx.abs(value).max()) > 0 for name, value in gradients.items() if name.startswith("vision_tower"))


def test_qwen3_mixtures_have_the_published_activations(model: Callable[[str], nn.Module]) -> None:
    """The layers' activation is approximate, the mergers' exact, as in the dense Qwen3-VL; and only for a while."""
    mixture, dense = model("qwen3_vl_moe"), model("qwen3_vl")

    def activations(module: nn.Module) -> set[tuple[bool, bool]]:
        found = {name: part for name, part in module.named_modules() if isinstance(part, nn.GELU)}
        points = mx.linspace(-3, 3, 64)
        return {(".blocks." in name, bool(mx.allclose(part(points), nn.gelu(points)))) for name, part in found.items()}

    before = activations(mixture)
    with match_reference_qwen3_activations(mixture):
        assert activations(mixture) == {(True, False), (False, True)} == activations(dense)
    assert activations(mixture) == before
