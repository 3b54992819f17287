"""Processors and tokenizers: what they give stays on the host, and vocabularies are listed once."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tests.models.encode.conversations import (
    LONG,
    ONE,
    TWO,
    every_family,
)
from vlora.models import Encoder
from vlora.models.encode.processors import _NumpyOfViews, on_host, to_host

Encoding = Callable[..., Encoder]


@every_family
def test_vocabulary_is_listed_once(family: str, encoder: Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for every row: it is a new table of a whole vocabulary, during which no other thread runs."""
    encode = encoder(family)
    listed: list[Any] = []
    encode(ONE)
    for name in ("get_vocab", "added_tokens_decoder"):
        own = getattr(type(encode.tokenizer), name, None)
        if own is not None:

            def noting(*args: Any, own: Any = own) -> Any:
                listed.append(args)
                return own(*args)

            monkeypatch.setattr(type(encode.tokenizer), name, noting)

    for sample in (ONE, TWO, LONG):
        encode(sample)

    assert not listed


@every_family
def test_results_left_on_the_host_are_the_processors(family: str, encoder: Encoding) -> None:
    """`on_host` changes where a processor's results are, not what they are, nor their types."""
    encode = encoder(family)
    seen: list[Any] = []

    def both(*args: Any, **kwargs: Any) -> Any:
        own = dict(processor(*args, **kwargs))
        seen.append((own, dict(on_host(processor)(*args, **kwargs))))
        return own

    processor, encode.processor = encode.processor, both
    for name in ("image_processor", "tokenizer", "full_image_sequence", "image_token"):
        if hasattr(processor, name):
            setattr(both, name, getattr(processor, name))
    encode(TWO)

    assert seen
    for own, found in seen:
        assert own.keys() == found.keys()
        for name, value in own.items():
            left, expected = to_host(found[name]), to_host(value)
            if isinstance(expected, np.ndarray):
                assert (left.dtype, left.shape) == (expected.dtype, expected.shape), name
                assert np.array_equal(left, expected), name
            elif isinstance(expected, list):
                assert all(np.array_equal(a, b) for a, b in zip(left, expected, strict=True)), name
            else:
                assert left == expected, name


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "qwen3_5"])
def test_images_are_repeated_as_views(family: str, encoder: Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pixel is copied with the interpreter held; patches are the class's own, whatever the budget."""
    held: list[tuple[int, ...]] = []

    def noting(array: Any, *args: Any) -> Any:
        held.append(np.shape(array))
        return repeat(array, *args)

    plain, small = encoder(family), encoder(family, max_pixels=56 * 56)
    image = np.random.default_rng(0).integers(0, 256, (3, 140, 112), dtype=np.uint8)
    expected = [type(part)._process_one(part, image) for part in (plain.processor.image_processor,)]
    repeat = np.repeat
    monkeypatch.setattr(np, "repeat", noting)
    found, grid = plain.processor.image_processor._process_one(image)
    _, fewer = small.processor.image_processor._process_one(image)

    assert not held
    np.testing.assert_array_equal(found, expected[0][0])
    assert list(grid) == list(expected[0][1])
    assert small.processor.image_processor._process_one.__self__ is small.processor.image_processor
    assert np.prod(fewer) <= np.prod(grid)


@given(st.data())
def test_views_are_what_numpy_repeats(data: st.DataObject) -> None:
    """For any array, axis and number, or numbers."""
    array = data.draw(npst.arrays(np.float32, npst.array_shapes(max_dims=4, max_side=3)))
    axis = data.draw(st.none() | st.integers(-array.ndim, array.ndim - 1))
    length = array.size if axis is None else array.shape[axis]
    repeats = data.draw(st.integers(0, 3) | st.lists(st.integers(0, 2), min_size=length, max_size=length))

    np.testing.assert_array_equal(
        _NumpyOfViews().repeat(array, repeats, axis), np.repeat(array, repeats, axis), strict=True
    )


@every_family
def test_inputs_stay_on_the_host(family: str, encoder: Encoding) -> None:
    """What the processor gives besides ids comes as numpy arrays, with one entry or more per image."""
    example = encoder(family)(TWO)

    assert "pixel_values" in example.inputs
    for value in example.inputs.values():
        assert not isinstance(value, mx.array)
    assert not {"input_ids", "attention_mask", "labels"} & set(example.inputs)
