"""Sizes of images: the recipe's shape and the budget of pixels."""

from collections.abc import Callable

from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from tests.models.encode.conversations import TWO, TWO_TURNS, every_family, own_ids, picture, sample_of
from vlora.models import Encoder
from vlora.models.encode.images.resizing import fit_size

Encoding = Callable[..., Encoder]


@every_family
def test_resize(family: str, encoder: Encoding) -> None:
    """image_resize_shape gives every image that size, whatever the processor makes of it then."""
    encode = encoder(family, image_resize_shape=(64, 40))

    example = encode(TWO)

    assert example.image_sizes == ((40, 64), (40, 64))
    resized = tuple(image.resize((40, 64), Image.Resampling.BICUBIC) for image in TWO.images)
    assert example.tokens.tolist() == own_ids(family, encode, encode.render(TWO), resized)


@every_family
def test_pixel_budget(family: str, encoder: Encoding) -> None:
    """max_pixels bounds what a family sees of an image, before its processor or in it, and keeps the aspect."""
    row = sample_of(*TWO_TURNS, images=(picture(0, 96, 64), picture(1, 64, 128)))
    encode = encoder(family, max_pixels=3000)
    whole = encoder(family)(row)
    example = encode(row)
    own = getattr(encode.processor, "image_processor", None)
    if own is not None and hasattr(own, "max_pixels"):
        assert (example.inputs["image_grid_thw"].prod(axis=-1) * 8 * 8 <= 3000).all()
        assert example.placeholders.sum() == 16 < whole.placeholders.sum()
        assert own.max_pixels == 3000 != encoder(family).processor.image_processor.max_pixels
        assert encoder(family, max_pixels=300).processor.image_processor.min_pixels == 300
    else:
        assert example.image_sizes == ((67, 44), (38, 77))
        scaled = tuple(
            image.resize(size, Image.Resampling.BICUBIC)
            for image, size in zip(row.images, example.image_sizes, strict=True)
        )
        assert example.tokens.tolist() == own_ids(family, encode, encode.render(row), scaled)
    (opened,) = encode.open_images(row, 1)
    assert opened.size == example.image_sizes[0]
    assert encoder(family, max_pixels=10**6)(row).image_sizes == whole.image_sizes


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 10**6))
def test_sizes_fit_a_budget(width: int, height: int, max_pixels: int) -> None:
    """A size is scaled to fewer pixels than the budget, not to many fewer, and not turned."""
    assume(width * height > max_pixels)
    w, h = fit_size((width, height), max_pixels)
    assert 1 <= w <= width
    assert 1 <= h <= height
    assert w * h <= max_pixels < (w + 1) * (h + 1) * 2
    assert (w >= h) if width >= height else (w <= h)
