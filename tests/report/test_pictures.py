"""Pictures of pages: whole where they are small, scaled and labelled where they are not."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from tests.training import picture
from vlora.report.pictures import LONGEST_SIDE, Picture, make_picture


def read(shown: Picture) -> Image.Image:
    """Open what a page holds."""
    return Image.open(io.BytesIO(base64.b64decode(shown.uri.partition(",")[2])))


def noise(width: int, height: int) -> Image.Image:
    """Make a picture that no format makes small."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_a_small_one_is_whole() -> None:
    """Its size is its label."""
    shown = make_picture(picture(40, 30, 1), "a row's image")

    assert (shown.width, shown.height, shown.label, shown.about) == (40, 30, "40x30", "a row's image")
    assert read(shown).size == (40, 30)


def test_a_tiny_one_may_be_enlarged() -> None:
    """By the browser, in whole times its size; the bytes are those of the picture."""
    shown = make_picture(picture(30, 40, 1), "an image", least_side=100)

    assert (shown.width, shown.height, shown.zoom) == (30, 40, 2)
    assert shown.label == "30x40, shown 2 times as large"
    assert make_picture(picture(60, 40, 1), "an image", least_side=100).zoom == 1


@pytest.mark.parametrize(("size", "expected"), [((1024, 768), (512, 384)), ((3, 2000), (1, 512)), ((513, 1), (512, 1))])
def test_a_large_one_is_scaled(size: tuple[int, int], expected: tuple[int, int]) -> None:
    """Both sizes are in its label."""
    shown = make_picture(Image.new("RGB", size, "teal"), "an image")

    assert read(shown).size == expected == (shown.width, shown.height)
    assert shown.label == f"{size[0]}x{size[1]}, shown at {expected[0]}x{expected[1]}"


def test_bytes_are_limited() -> None:
    """What does not get small enough by its format gets smaller sides, and says so."""
    shown = make_picture(noise(500, 400), "noise", most_bytes=20_000)

    assert len(base64.b64decode(shown.uri.partition(",")[2])) <= 20_000
    assert shown.label.startswith("500x400, shown at ")
    assert 32 <= shown.width < LONGEST_SIDE
    assert make_picture(noise(500, 400), "noise", most_bytes=1).width == 32


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
def test_modes(mode: str) -> None:
    """All modes can be shown."""
    assert read(make_picture(Image.new(mode, (8, 6)), "an image")).mode == "RGB"


def test_transparency_is_white() -> None:
    """As on paper, and not black."""
    shown = make_picture(Image.new("RGBA", (8, 6), (0, 0, 0, 0)), "nothing")

    assert read(shown).getpixel((0, 0)) == (255, 255, 255)
