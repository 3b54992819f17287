"""Padding of Idefics 2's images is invisible, and its patches keep their places."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.models.families.test_tiles import Encoding, embed, encode_images, picture
from vlora.models.families.idefics import bucket_positions, embed_idefics2


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


@given(st.integers(1, 70), st.integers(1, 70))
def test_positions_keep_the_picture(n_patches: int, n_per_side: int) -> None:
    """Patches stand at the fraction of the side where they are in the picture, however many there are."""
    found = bucket_positions(n_patches, n_per_side)

    exact = np.arange(n_patches) * n_per_side / n_patches
    assert (np.abs(found - np.floor(exact)) <= (np.abs(exact - np.round(exact)) < 1e-4)).all()
    assert found[0] == 0
    assert found[-1] < n_per_side
