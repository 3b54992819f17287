"""Tiles of LLaVA-NeXT stand in the published order."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from tests.models.families.test_tiles import Encoding, encode_images, image_features, picture


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
