"""Rows measured without decoding their images are those that training has, token for token."""

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.checkpoints import FAMILIES
from tests.models.encode.test_encoder_families import MAKE, make
from tests.models.encode.test_seq2seq import encoder as pair_encoder
from vlora import Example, Sample, Turn
from vlora.data.format.samples import format_sample
from vlora.errors import SampleError
from vlora.models import Encoder, RowMeasurer
from vlora.models.encode import encoder as encoding
from vlora.models.encode.images import opening
from vlora.types import ImageSlot

Encoding = Callable[..., Encoder]
SIZES = ((48, 32), (90, 150), (65, 43))
REPRESENTATIVE = ("qwen2_vl", "llava", "smolvlm", "paligemma", "internvl", "glm4v", "molmo2", "falcon_ocr")
"""Families that are tried always: a rule, one size, tiles, a prefix, a grid, a processor's own prompt."""


def some(families: Iterable[str]) -> list[Any]:
    """Mark the families that are tried when asked."""
    return [family if family in REPRESENTATIVE else pytest.param(family, marks=pytest.mark.slow) for family in families]


def row_of(*sizes: tuple[int, int], text: str = "What is it?") -> Sample:
    """Make a row of two turns that shows images of these sizes."""
    shown = tuple(Image.new("RGB", size, "red") for size in sizes)
    parts: list[Any] = [part for number in range(len(sizes)) for part in (ImageSlot(number), text)]
    turns = (Turn("user", tuple(parts) or (text,)), Turn("assistant", ("A red square.",)))
    return Sample("a row", (*turns, Turn("user", ("Well?",)), Turn("assistant", ("Yes, two.",))), shown)


def assert_same(measured: Example, encoded: Example) -> None:
    """Compare all that can be known without pixels."""
    assert len(measured.tokens) == len(encoded.tokens)
    assert np.array_equal(measured.supervised, encoded.supervised)
    assert np.array_equal(measured.placeholders, encoded.placeholders)
    shown = ~encoded.placeholders
    assert np.array_equal(measured.tokens[shown], encoded.tokens[shown])
    assert (measured.source, measured.image_sizes, measured.cut) == (
        encoded.source,
        encoded.image_sizes,
        encoded.cut,
    )


@pytest.mark.parametrize("family", some(FAMILIES))
def test_every_checkpoint(family: str, encoder: Encoding) -> None:
    """For every family: without an image, with one, with several of different sizes, whole and cut."""
    encode = encoder(family, train_on_completions=True)
    measure = RowMeasurer(encode)
    is_prefix = family.startswith("paligemma")
    rows = [row_of(*SIZES[:count]) for count in range(is_prefix, 4)]
    if is_prefix:
        rows = [attrs.evolve(row, turns=(Turn("user", row.turns[0].parts), row.turns[1])) for row in rows]
    for row in rows:
        whole = encode(row)
        assert_same(measure(row), whole)
    short = encoder(family, train_on_completions=True, max_seq_length=len(whole.tokens) - 2)
    assert_same(RowMeasurer(short)(row), short(row))


@pytest.mark.parametrize("family", some(MAKE))
def test_families_on_another_tokenizer(family: str, checkpoint: Callable[[str], Path]) -> None:
    """So for families whose processors stand on the tokenizer of another."""
    encode = make(family, checkpoint("qwen2_vl"))
    row = attrs.evolve(row_of(SIZES[0]), turns=row_of(SIZES[0]).turns[:2])

    assert_same(RowMeasurer(encode)(row), encode(row))


@pytest.mark.parametrize("family", ["florence2", "nemotron_parse"])
def test_pairs(family: str) -> None:
    """And for decoders beside an encoder, whose images are no tokens."""
    encode = pair_encoder(family)
    row = Sample(
        "a row",
        (Turn("user", (ImageSlot(0), "What does the image describe ?")), Turn("assistant", ("a red square",))),
        (Image.new("RGB", (48, 32)),),
    )

    assert_same(RowMeasurer(encode)(row), encode(row))


OF_ANY_SIZE = ("qwen2_vl", "qwen3_vl", "llava_next", "smolvlm", "internvl", "pixtral", "gemma3")
sides = st.integers(20, 400)


@pytest.mark.parametrize("family", some(OF_ANY_SIZE))
@settings(max_examples=8)
@given(sizes=st.lists(st.tuples(sides, sides), min_size=1, max_size=3), pixels=st.none() | st.integers(1000, 90_000))
def test_any_sizes(family: str, sizes: list[tuple[int, int]], pixels: int | None, encoder: Encoding) -> None:
    """Whatever the sizes are, with a budget of pixels and without."""
    encode = encoder(family, train_on_completions=True, max_pixels=pixels, max_seq_length=100_000)

    assert_same(RowMeasurer(encode)(row_of(*sizes)), encode(row_of(*sizes)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_turned_pictures(kind: str, encoder: Encoding) -> None:
    """A picture that its header turns is as large as it is when it is upright, wherever the header says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.new("RGB", (90, 30), "blue").save(stream, format=kind, exif=exif)
    row = format_sample({"image": stream.getvalue(), "question": "Well?", "answer": "Yes."}, "a row")
    encode = encoder("smolvlm", train_on_completions=True)

    assert_same(RowMeasurer(encode)(row), encode(row))
    assert RowMeasurer(encode)(row).image_sizes == ((30, 90),)


def test_no_picture_is_decoded(encoder: Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a family's rule is known neither a picture is decoded nor the processor run; else that once per size."""

    def fail(*_: Any, **__: Any) -> None:
        message = "a picture was decoded"
        raise AssertionError(message)

    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, format="PNG")
    row = format_sample({"image": stream.getvalue(), "question": "Well?", "answer": "Yes."}, "a row")
    monkeypatch.setattr(opening, "decode", fail)
    asked: list[Any] = []
    own = encoding.Encoder.count_image_tokens

    def noting(self: encoding.Encoder, sample: Any) -> Any:
        asked.append(sample)
        return own(self, sample)

    monkeypatch.setattr(encoding.Encoder, "count_image_tokens", noting)
    for family, n_asked in {"qwen3_vl": 0, "llava": 1}.items():
        measure = RowMeasurer(encoder(family))
        asked.clear()
        lengths = {len(measure(row).tokens) for _ in range(3)}
        assert len(lengths) == 1
        assert len(asked) == n_asked
        assert ("computed" in measure.describe()) == (not n_asked)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"image": "nowhere.png", "question": "Well?", "answer": "Yes."}, "cannot read the image nowhere.png"),
        ({"image": b"no image", "question": "Well?", "answer": "Yes."}, "cannot read the image"),
        ({"image": "https://x.org/a.png", "question": "Well?", "answer": "Yes."}, "allow_urls"),
        ({"question": "Well?", "answer": "<|image_pad|>"}, "does the text hold"),
    ],
)
@pytest.mark.parametrize("shape", [None, (32, 32)])
def test_bad_rows_are_those_of_training(
    row: dict[str, Any], problem: str, shape: tuple[int, int] | None, encoder: Encoding
) -> None:
    """What cannot be learned from is refused in the same words."""
    encode = encoder("qwen2_vl", image_resize_shape=shape)
    with pytest.raises(SampleError, match=problem) as measured:
        RowMeasurer(encode)(format_sample(row, "a row"))
    with pytest.raises(SampleError) as encoded:
        encode(format_sample(row, "a row"))

    assert str(measured.value) == str(encoded.value)
