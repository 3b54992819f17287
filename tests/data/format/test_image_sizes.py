"""Sizes that rows ask for their images."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from mlx_vlm.models.qwen3_vl.processing_qwen3_vl import _smart_resize_image

from tests.training import picture
from vlora import models
from vlora.data.format.image_sizes import Asked, Budget, SizedImage, fit_to_patches, read_asked, settle_size
from vlora.data.format.samples import format_sample
from vlora.data.rows import beside
from vlora.errors import SampleError
from vlora.models.encode.images.headers import read_size
from vlora.models.encode.images.resizing import find_budget
from vlora.types import ImageSlot, Sample, Turn

Encoding = Callable[..., models.Encoder]
QWENS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5")
ANSWER = {"role": "assistant", "content": "a"}
sides = st.integers(1, 4000)


def sample_of(*images: Any) -> Sample:
    slots = tuple(ImageSlot(index) for index in range(len(images)))
    return Sample("rows row 3", (Turn("user", (*slots, "What?")), Turn("assistant", ("a",))), images)


def grids(encode: models.Encoder, *images: Any) -> list[tuple[int, int]]:
    """Give the sizes in pixels of the images as the tower gets them."""
    patch = encode.processor.image_processor.patch_size
    found = encode(sample_of(*images)).inputs["image_grid_thw"].tolist()
    return [(width * patch, height * patch) for _, height, width in found]


@given(
    size=st.tuples(sides, sides), factor=st.sampled_from([16, 28, 32]), low=st.integers(1, 10**6), more=st.floats(2, 9)
)
def test_whole_patches(size: tuple[int, int], factor: int, low: int, more: float) -> None:
    """Sizes are those of Qwen's own processor, for all but pictures thinner than half a patch."""
    high = int(low * more)
    assume(max(size) <= 200 * min(size) and min(size) * 2 > factor and high >= factor**2)
    found = fit_to_patches(size, factor, low, high)

    assert found == tuple(reversed(_smart_resize_image(size[1], size[0], factor, low, high)))
    assert not found[0] % factor
    assert not found[1] % factor


def test_thin_pictures() -> None:
    """A picture that is too thin for the model is refused."""
    with pytest.raises(ValueError, match="more than 200 times"):
        fit_to_patches((2001, 10), 28, 1, 10**6)
    assert fit_to_patches((300, 5), 28, 1, 10**6) == (308, 28)


@given(
    size=st.tuples(sides, sides),
    low=st.none() | st.integers(1, 10**6),
    high=st.none() | st.integers(1, 10**6),
    factor=st.sampled_from([28, 32]),
)
def test_bounds_hold(size: tuple[int, int], low: int | None, high: int | None, factor: int) -> None:
    """A size is within the row's and the processor's bounds, and the processor leaves it; or it is refused."""
    budget = Budget(factor, 56 * 56, 1_003_520)
    try:
        width, height = settle_size(size, Asked(min_pixels=low, max_pixels=high), budget)
    except ValueError as error:
        assert str(error)  # noqa: PT017 - either is right
        return

    assert max(low or 1, budget.min_pixels) <= width * height <= min(high or math.inf, budget.max_pixels)
    assert _smart_resize_image(height, width, factor, budget.min_pixels, budget.max_pixels) == (height, width)


@pytest.mark.parametrize(
    ("part", "asked"),
    [
        ({"type": "image"}, None),
        ({"image": "a.png", "min_pixels": None, "resized_height": None}, None),
        ({"min_pixels": 3136}, Asked(min_pixels=3136)),
        ({"min_pixels": 3136.0, "max_pixels": 10**6}, Asked(min_pixels=3136, max_pixels=10**6)),
        ({"resized_height": 280, "resized_width": 420}, Asked(resized_height=280, resized_width=420)),
    ],
)
def test_what_parts_ask(part: dict[str, Any], asked: Asked | None) -> None:
    """The keys of Qwen's loader are read; those that Arrow fills with nothing ask nothing."""
    assert read_asked(part, "rows row 3: turn 1") == asked


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ({"resized_height": 280}, "give both resized_height and resized_width"),
        ({"resized_height": 280, "resized_width": 280, "max_pixels": 9}, "not some of both"),
        ({"min_pixels": 0}, "expected 1 to"),
        ({"min_pixels": -4}, "expected 1 to"),
        ({"max_pixels": 2**40}, "expected 1 to"),
        ({"max_pixels": "1000"}, "expected a whole number"),
        ({"max_pixels": True}, "expected a whole number"),
        ({"max_pixels": 2.5}, "expected a whole number"),
        ({"max_pixels": float("nan")}, "expected a whole number"),
        ({"max_pixels": [9]}, "expected a whole number"),
        ({"fps": 2.0}, "fps, which an image has not"),
    ],
)
def test_what_is_no_size(part: dict[str, Any], why: str) -> None:
    """What is no size is a bad row that names the turn."""
    with pytest.raises(SampleError, match=rf"^rows row 3: turn 1 has an image part with .*{why}"):
        read_asked(part, "rows row 3: turn 1")


def test_sizes_of_rows(tmp_path: Path) -> None:
    """Parts that name an image and parts that stand for one of a column ask alike; paths are found as ever."""
    (tmp_path / "a.png").write_bytes(b"")
    parts: list[dict[str, Any]] = [
        {"type": "image", "image": "a.png", "resized_height": 64, "resized_width": 32},
        {"type": "image", "max_pixels": 5000},
        {"type": "image", "image": None, "text": None, "max_pixels": None},
        {"type": "text", "text": "What?"},
    ]
    row = {"images": ["a.png", "b.png", "c.png"], "messages": [{"role": "user", "content": parts}, ANSWER]}
    first, second, third = format_sample(row, "rows row 3").images

    assert (first.image, first.asked) == ("a.png", Asked(resized_height=64, resized_width=32))
    assert (second.image, second.asked) == ("b.png", Asked(max_pixels=5000))
    assert third == "c.png"
    found = beside(first, tmp_path)
    assert (found.image, found.asked) == (str(tmp_path / "a.png"), first.asked)
    parts[1]["fps"] = 2
    with pytest.raises(SampleError, match=r"^rows row 3: turn 1 has an image part with fps"):
        format_sample(row, "rows row 3")


@pytest.mark.parametrize("family", QWENS)
def test_sizes_are_obeyed(family: str, encoder: Encoding) -> None:
    """What a row asks is what the tower gets, image by image; the others keep their own size."""
    encode = encoder(family)
    budget = find_budget(encode.processor)
    assert budget is not None
    image = picture(90, 50)
    own = fit_to_patches((90, 50), budget.factor, budget.min_pixels, budget.max_pixels)
    exact = SizedImage(image, Asked(resized_height=48, resized_width=33))
    small = SizedImage(image, Asked(max_pixels=2100))
    large = SizedImage(image, Asked(min_pixels=6000))

    found = grids(encode, image, exact, small, large)

    assert found[:2] == [own, (32, 48)]
    assert found[2][0] * found[2][1] <= 2100 < own[0] * own[1]
    assert found[3][0] * found[3][1] >= 6000 > own[0] * own[1]
    assert read_size(small, encode.resizer) == found[2]


def test_sizes_and_the_recipe(encoder: Encoding) -> None:
    """The recipe's bound holds beside the row's; a size beyond it, or beside one for all images, is a bad row."""
    image = picture(90, 90)
    bounded = encoder("qwen3_vl", max_pixels=2500)
    ((width, height),) = grids(bounded, SizedImage(image, Asked(max_pixels=8000)))
    assert width * height <= 2500
    for asked in (Asked(resized_height=64, resized_width=64), Asked(min_pixels=4000)):
        with pytest.raises(SampleError, match=r"^rows row 3: .*takes 1,024 to 2,500; .*data\.max_pixels"):
            bounded(sample_of(SizedImage(image, asked)))
    with pytest.raises(SampleError, match=r"^rows row 3: .*data\.image_resize_shape gives all images one"):
        encoder("qwen3_vl", image_resize_shape=(32, 32))(sample_of(SizedImage(image, Asked(max_pixels=2000))))


@pytest.mark.parametrize("family", ["gemma3", "idefics3", "llava", "internvl", "paligemma"])
def test_sizes_that_other_families_do_not_take(family: str, encoder: Encoding) -> None:
    """Where a family's loader takes no sizes the row is refused, and says what was asked."""
    with pytest.raises(SampleError, match=r"^rows row 3: .*max_pixels = 2000, and this model takes no sizes of rows"):
        encoder(family, train_on_completions=True)(sample_of(SizedImage(picture(90, 90), Asked(max_pixels=2000))))


def test_keys_of_sized_images(encoder: Encoding) -> None:
    """Features are known by the size, too: another size, another key; the same, the same."""
    encode, image = encoder("qwen3_vl").with_image_keys(), picture(90, 90)
    asked = [None, Asked(max_pixels=2000), Asked(max_pixels=3000), Asked(max_pixels=2000)]
    keys = [encode(sample_of(image if one is None else SizedImage(image, one))).image_keys for one in asked]

    assert len(set(keys)) == 3
    assert keys[1] == keys[3]


def test_lengths_follow(encoder: Encoding) -> None:
    """Rows are sorted by the lengths that their sizes give them."""
    encode = encoder("qwen3_vl")
    estimate = models.LengthEstimator(encode)
    for asked in (Asked(resized_height=32, resized_width=32), Asked(resized_height=64, resized_width=96)):
        sample = sample_of(SizedImage(picture(90, 90), asked))
        assert estimate(sample) == len(encode(sample).tokens)


def test_pictures_are_resized_once(encoder: Encoding) -> None:
    """The processor gets the size that was asked for and leaves it: the pixels are those of one resizing."""
    encode, image = encoder("qwen3_vl"), picture(90, 90)
    sized = encode(sample_of(SizedImage(image, Asked(resized_height=48, resized_width=32))))
    plain = encode(sample_of(image.resize((32, 48), 3)))

    assert np.array_equal(sized.inputs["pixel_values"], plain.inputs["pixel_values"])
