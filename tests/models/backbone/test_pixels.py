"""Pixels packed: what the tower gets is what MLX would have made of the processor's numbers, to the last bit."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.training import make_trainable
from vlora import collate
from vlora.features.cache import FeatureCache
from vlora.models.backbone.pixels import PixelLayout, pixel_layout, to_host_type

TYPES = [mx.float32, mx.float16, mx.bfloat16]


def layout(dtype: mx.Dtype, n_frames: int = 2) -> PixelLayout:
    """Describe patches of 3 colours and 4 pixels."""
    return PixelLayout(dtype, 3, n_frames, 4)


@pytest.mark.parametrize("dtype", TYPES)
@given(values=arrays(np.float32, (3, 5), elements=st.floats(-6e4, 6e4, width=32)))
def test_numbers_are_rounded_as_mlx_rounds(dtype: mx.Dtype, values: np.ndarray) -> None:
    """Bit by bit, ties and denormal numbers included."""
    packed = mx.array(to_host_type(values, dtype))
    typed = packed.view(dtype) if dtype == mx.bfloat16 else packed

    assert typed.dtype == dtype
    assert mx.array_equal(typed, mx.array(values).astype(dtype))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("n_frames", [1, 2, 3])
@given(seed=st.integers(0, 99), is_still=st.booleans())
def test_packing_loses_nothing(dtype: mx.Dtype, n_frames: int, seed: int, is_still: bool) -> None:
    """Pictures that are the same are kept once, others all; packing twice is packing once."""
    picture = np.random.default_rng(seed).standard_normal((5, 3, n_frames, 4)).astype(np.float32)
    if is_still:
        picture[:] = picture[:, :, :1]
    pixels, own = picture.reshape(5, -1), layout(dtype, n_frames)

    packed = own.pack(pixels)

    assert packed.shape[-1] == (12 if is_still or n_frames == 1 else own.width)
    assert np.array_equal(own.pack(packed), packed)
    assert mx.array_equal(own.unpack(mx.array(packed)), mx.array(pixels).astype(dtype))


def test_no_patches_are_packed_as_none() -> None:
    """A row without images has none."""
    assert layout(mx.bfloat16).pack(np.zeros((0, 24), np.float32)).shape == (0, 24)


@pytest.mark.parametrize("dtype", TYPES)
def test_still_and_moving_images_go_together(dtype: mx.Dtype) -> None:
    """If one image of a pass has pictures that differ, all are written out; packed or not beforehand."""
    moving = np.arange(48, dtype=np.float32).reshape(2, 24)
    still = np.repeat(np.arange(12, dtype=np.float32).reshape(1, 3, 1, 4), 2, axis=2).reshape(1, 24)
    own: Any = layout(dtype)

    for first, second in ((still, moving), (own.pack(still), moving), (mx.array(still), moving)):
        parts = own.alike([first, second])
        for part, expected in zip(parts, (still, moving), strict=True):
            assert mx.array_equal(own.unpack(mx.array(part)), mx.array(expected).astype(dtype))


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_rows_prepared_ahead_embed_alike(family: str, checkpoint: Callable[[str], Path]) -> None:
    """In another thread or not at all: the same inputs of the language model; and half of the pixels wait."""
    subject = make_trainable(checkpoint(family))
    backbone = subject.backbone
    plain = collate(subject.examples)
    rows = [backbone.prepare(example) for example in subject.examples]
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(backbone.prepare_batch(collate(rows)).ahead))
    thread.start()
    thread.join()

    for batch in (collate(rows), collate(rows)._replace(ahead=found[0])):
        for one, other in zip(backbone.embed(plain), backbone.embed(batch), strict=True):
            assert one.keys() == other.keys()
            for name in one:
                parts = [value if isinstance(value, list) else [value] for value in (one[name], other[name])]
                assert all(mx.array_equal(a, b) for a, b in zip(*parts, strict=True)), name
    width = pixel_layout(backbone.module.vision_tower).width
    for row, example in zip(rows, subject.examples, strict=True):
        if "pixel_values" in example.inputs:
            assert example.inputs["pixel_values"].shape[-1] == width
            assert row.inputs["pixel_values"].shape[-1] == width // 2


def test_features_kept_meanwhile_are_not_computed_again(checkpoint: Callable[[str], Path]) -> None:
    """An image that two batches share is laid out twice, ahead, and computed once."""
    subject = make_trainable(checkpoint("qwen3_vl"))
    backbone = subject.backbone
    row = next(example for example in subject.examples if "pixel_values" in example.inputs)
    row = attrs.evolve(row, image_keys=tuple(f"image {number}" for number in range(len(row.image_sizes))))
    cache = FeatureCache(2**30)
    backbone.keep_features(cache)
    batches = [backbone.prepare_batch(collate([row])) for _ in range(2)]
    assert batches[0].ahead.wanted == batches[1].ahead.wanted == list(range(len(row.image_sizes)))

    first, second = (backbone.embed(batch)[0]["inputs_embeds"] for batch in batches)

    assert mx.array_equal(first, second)
    assert (cache.counts.n_computed, cache.counts.n_memory) == (len(row.image_sizes), len(row.image_sizes))
