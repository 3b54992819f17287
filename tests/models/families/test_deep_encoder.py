"""Towers with SAM in DeepSeek-OCR and its like compute what was published; tests/golden compares with transformers."""

import mlx.core as mx
import numpy as np
import pytest

from tests.families import FAMILIES, build
from vlora.models.families.deep_encoder import match_reference_deep_encoder, resize_positions
from vlora.models.families.registry import describe_family
from vlora.models.forward.resize import resize_bicubic_smoothly, resize_linear


@pytest.mark.parametrize("name", ["deepseekocr", "unlimited_ocr"])
def test_clip_has_the_quick_activation(name: str) -> None:
    """CLIP computes x times the sigmoid of 1.702 x while a row is embedded, and mlx-vlm's own before and after."""
    module = build(FAMILIES[name])
    mlp = module.vision_model.transformer.layers[0].mlp
    x = mx.linspace(-3, 3, 64).reshape(2, 32)
    before, hidden = mlp(x), mlp.fc1(x)
    published = mlp.fc2(hidden * mx.sigmoid(1.702 * hidden))
    with match_reference_deep_encoder(module):
        corrected = mlp(x)

    assert np.allclose(np.array(corrected), np.array(published), atol=1e-6)
    assert mx.array_equal(mlp(x), before)
    assert not np.allclose(np.array(before), np.array(published), atol=1e-4)


def test_positions_of_smaller_images_are_smoothed() -> None:
    """The first token keeps its own, and those of the table's size are the table."""
    table = mx.random.normal((1, 17, 3), key=mx.random.key(0))
    resized = resize_positions(table, 5)

    assert resize_positions(table, 17) is table
    assert mx.array_equal(resized[0, 0], table[0, 0])
    expected = resize_bicubic_smoothly(table[0, 1:].reshape(4, 4, 3), (2, 2))
    assert mx.array_equal(resized[0, 1:].reshape(2, 2, 3), expected)


@pytest.mark.parametrize(("name", "n_places"), [("deepseekocr", 8), ("unlimited_ocr", 8), ("deepseekocr_2", 12)])
def test_sam_resizes_relative_positions_from_the_middles_of_their_places(name: str, n_places: int) -> None:
    """A layer that sees the whole of a tile has the table resized so; one of the table's size is unchanged."""
    module = build(FAMILIES[name])
    attention = module.sam_model.blocks[1].attn
    whole, tile = (mx.random.normal((1, side, side, 32), key=mx.random.key(side)) for side in (16, n_places))
    before = attention(whole), attention(tile)
    with describe_family(name).forward.embed_overrides(module):
        corrected = attention(whole), attention(tile)
    attention.rel_pos_h = resize_linear(attention.rel_pos_h, 2 * n_places - 1)
    attention.rel_pos_w = resize_linear(attention.rel_pos_w, 2 * n_places - 1)

    assert mx.array_equal(corrected[0], before[0])
    assert not np.allclose(np.array(corrected[1]), np.array(before[1]), atol=1e-4)
    assert np.allclose(np.array(corrected[1]), np.array(attention(tile)), atol=1e-5)
