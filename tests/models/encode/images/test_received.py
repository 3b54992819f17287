"""What processors make of images is turned back into pictures that look like them, or not shown at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.checkpoints import FAMILIES, LARGE_FAMILIES
from vlora import format_sample, models
from vlora.models.encode.images.received import Received, restore_pictures

SOME = (
    "qwen3_vl",
    "llava",
    "pixtral",
    "mllama",
    "deepseek_vl_v2",
    "idefics3",
    "idefics2",
    "gemma3",
)
"""One of each layout of pixels: patches in Qwen's order, a square, a padded one, tiles alone, tiles and a whole, ..."""
WITH_MARGINS = ("deepseek_vl_v2", "mllama")
ALL = sorted({*FAMILIES, *LARGE_FAMILIES})

EncoderFactory = Callable[..., models.Encoder]
CheckpointFactory = Callable[[str], Path]


def checkered(width: int, height: int) -> Image.Image:
    """Draw squares on colours that change from corner to corner: no two places are alike."""
    y, x = np.mgrid[:height, :width]
    colors = (x / width * 255, y / height * 255, (x * 10 // width + y * 6 // height) % 2 * 255)
    return Image.fromarray(np.stack(colors, -1).astype(np.uint8))


def differ(picture: Image.Image, image: Image.Image) -> float:
    """Give the mean difference of two pictures at one small size, of 255."""
    small = [np.asarray(one.resize((24, 24), Image.Resampling.BOX), np.float32) for one in (picture, image)]
    return float(np.abs(small[0] - small[1]).mean())


def encode(encoder: models.Encoder, images: list[Image.Image]) -> Received:
    """Encode a row with images, and turn what the processor made of them into pictures."""
    sample = format_sample({"images": images, "prefix": "What is it?", "suffix": "That."})
    return models.restore_pictures(encoder, encoder.encode_untruncated(sample), images)


@pytest.mark.parametrize("family", [pytest.param(name, marks=[] if name in SOME else pytest.mark.slow) for name in ALL])
def test_families(family: str, encoder: EncoderFactory) -> None:
    """Of one image and of two of other sizes, of all families whose processors there are."""
    images = [checkered(500, 300), checkered(200, 290)]
    encode_row = encoder(family, train_on_completions=True)
    for given in (images[:1], images):
        received = encode(encode_row, given)

        assert received.is_processed
        assert len(received.pictures) in (1, len(given))
        for image in given if family not in WITH_MARGINS else ():
            # Their middle differs from the whole image, and not as much as a wrong order of its patches does.
            assert min(differ(picture, image) for group in received.pictures for picture in group) < 60


def test_pixels_are_those_of_the_processor(encoder: EncoderFactory) -> None:
    """Patches stand where they were: the picture is the resized image, up to rounding and the filter."""
    image = checkered(112, 64)
    ((picture,),) = encode(encoder("qwen3_vl", train_on_completions=True), [image]).pictures

    assert picture.size == (112, 64)
    assert np.abs(np.asarray(picture, np.int32) - np.asarray(image, np.int32)).max() <= 1


@pytest.mark.parametrize("size", [(160, 400), (300, 400), (600, 280)])
def test_no_other_order_of_patches_is_taken(size: tuple[int, int], encoder: EncoderFactory) -> None:
    """Pictures of few large shapes look alike from far whatever the order: the most alike is taken."""
    y, x = np.mgrid[: size[1], : size[0]]
    waves = 127 + 60 * np.sin(y / 40) + 50 * np.sin(x / 9) * np.sin(y / 7)
    image = Image.fromarray(np.stack([waves, waves / 2, 255 - y * 200 / size[1]], -1).clip(0, 255).astype(np.uint8))
    ((picture,),) = encode(encoder("qwen3_vl", train_on_completions=True), [image]).pictures

    same = np.asarray(image.resize(picture.size, Image.Resampling.BICUBIC), np.int32)
    assert np.abs(np.asarray(picture, np.int32) - same).mean() < 8


def normalized(image: Image.Image) -> Any:
    """Give an image as f32[3, H, W] between -1 and 1."""
    return (np.asarray(image, np.float32) / 127.5 - 1).transpose(2, 0, 1)


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"pixel_values": np.random.default_rng(0).normal(size=(1, 3, 30, 50)).astype(np.float32)},
        {"pixel_values": normalized(checkered(50, 30))[None, :, ::-1]},
        {"pixel_values": np.zeros((7, 5), np.float32), "image_grid_thw": np.array([[1, 2, 4]])},
        {"pixel_values": np.zeros((0, 3, 8, 8), np.float32)},
        {"pixel_values": [np.zeros((3, 8, 8), np.float32), "nothing"]},
    ],
    ids=["none", "noise", "upside down", "of another grid", "empty", "no arrays"],
)
def test_what_does_not_look_like_the_image_is_not_shown(inputs: dict[str, Any]) -> None:
    """The image itself is, and said to be that."""
    image = checkered(50, 30)
    received = restore_pictures(inputs, None, [image])

    assert received == Received(pictures=((image,),), is_processed=False)


def test_plain_images_have_nothing_to_compare() -> None:
    """Their colour has to be right."""
    white = Image.new("RGB", (40, 30), "white")

    assert restore_pictures({"pixel_values": normalized(white)[None]}, None, [white]).is_processed
    black = normalized(Image.new("RGB", (40, 30), "black"))
    assert not restore_pictures({"pixel_values": black[None]}, None, [white]).is_processed


def test_rows_without_images() -> None:
    """There is nothing to show of them."""
    assert restore_pictures({"pixel_values": np.zeros((1, 3, 4, 4))}, None, []).pictures == ()
