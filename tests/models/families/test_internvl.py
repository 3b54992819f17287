"""InternVL's towers compute the published activations while they embed."""

from collections.abc import Callable

import attrs
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from tests.families import FAMILIES, build
from tests.models.families.test_tiles import Encoding, embed, encode_images, picture
from vlora.models.families.internvl import match_reference_intern_vit


def test_intern_vit_has_the_exact_activation() -> None:
    """InternVL's tower computes the exact GELU while it embeds, and mlx-vlm's own before and after."""
    module = build(FAMILIES["internvl_chat"])
    mlp = module.vision_model.encoder.layers[0].mlp
    x = mx.linspace(-3, 3, 64).reshape(2, 32)
    before = mlp(x)
    hidden = mlp.fc1(x)
    exact = mlp.fc2(hidden * (1 + mx.erf(hidden / 2**0.5)) / 2)
    with match_reference_intern_vit(module):
        corrected = mlp(x)

    assert np.allclose(np.array(corrected), np.array(exact), atol=1e-6)
    assert mx.array_equal(mlp(x), before)
    assert not np.allclose(np.array(before), np.array(exact), atol=1e-6)


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
