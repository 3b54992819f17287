"""Images of rows, opened: whatever a row holds becomes an upright RGB picture."""

import copy
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import attrs
from PIL import Image

from ..errors import SampleError
from ..files import check_length, expand, open_regular, read_regular
from ..inline import decode_inline, is_inline
from ..redaction import shorten_name
from ..urls import fetch, is_url
from .decoding import decode
from .decoding import read_size as read_header
from .features import digest


@attrs.frozen(eq=False)
class ImageContent:
    """An image as a row gives it, read but not decoded.

    Attributes:
        name: How errors name it.
        data: The file's bytes, or a picture that is decoded already.
        digest: Stands for the content: the file's bytes, or the picture's pixels.
    """

    name: str
    data: bytes | Image.Image
    digest: str


def read_image(image: Any, source: str, *, allow_urls: bool = False) -> ImageContent:
    """Read an image, without decoding it: who decodes it later sees the same, whatever becomes of the file.

    Args:
        image: A path, a URL, a data URI, bytes, a PIL image, or a `datasets` image `{"bytes", "path"}`.
        source: The row, for errors.
        allow_urls: Whether images behind addresses are fetched.

    Raises:
        SampleError: There is no such file, or nothing that an image can be read from.
    """
    if isinstance(image, Mapping):
        image = image.get("bytes") if image.get("bytes") is not None else image.get("path")
    name = _name_image(image)
    try:
        if isinstance(image, Image.Image):
            upright = decode(image)
            return ImageContent(name, upright, digest([str(upright.size).encode(), upright.tobytes()]))
        data = _image_bytes(image, allow_urls=allow_urls)
        return ImageContent(name, data, digest([data]))
    except (OSError, ValueError, TypeError) as error:
        # An error of the system names the file again, at any length.
        why = getattr(error, "strerror", None) or error
        msg = f"{source}: cannot read the image {name}: {why}"
        raise SampleError(msg) from None


def decode_image(
    content: ImageContent, source: str, resize_shape: tuple[int, int] | None = None, max_pixels: int | None = None
) -> Image.Image:
    """Decode an image as upright RGB, resized to (height, width) or scaled down to a number of pixels if given.

    Args:
        content: As `read_image` returns it.
        source: The row, for errors.
        resize_shape: (height, width) in pixels; every image gets exactly this size.
        max_pixels: Larger images are scaled down to at most so many, their aspect kept.

    Raises:
        SampleError: It is no image.
    """
    try:
        opened = decode(content.data)
    except ValueError as error:
        msg = f"{source}: cannot read the image {content.name}: {error}"
        raise SampleError(msg) from None
    if resize_shape is not None:
        height, width = resize_shape
        opened = opened.resize((width, height), Image.Resampling.BICUBIC)
    if max_pixels is not None and opened.width * opened.height > max_pixels:
        opened = opened.resize(fit_size(opened.size, max_pixels), Image.Resampling.BICUBIC)
    return opened


def open_image(
    image: Any,
    source: str,
    resize_shape: tuple[int, int] | None = None,
    max_pixels: int | None = None,
    *,
    allow_urls: bool = False,
) -> Image.Image:
    """Read an image and decode it; see `read_image` and `decode_image`."""
    return decode_image(read_image(image, source, allow_urls=allow_urls), source, resize_shape, max_pixels)


def read_size(
    image: Any, resize_shape: tuple[int, int] | None = None, max_pixels: int | None = None
) -> tuple[int, int] | None:
    """Say how large an image will be for the processor, from its file's header alone.

    Args:
        image: As for `read_image`.
        resize_shape: As for `decode_image`, as is the next.
        max_pixels: See above.

    Returns:
        (width, height) in pixels; None where more than the header would be needed, or there is no image.
    """
    if resize_shape is not None:
        return resize_shape[1], resize_shape[0]
    if isinstance(image, Mapping):
        image = image.get("bytes") if image.get("bytes") is not None else image.get("path")
    if isinstance(image, str) and is_url(image):
        return None
    try:
        if isinstance(image, Image.Image):
            size = read_header(image)
        else:
            with _open_stream(image) as stream:
                size = read_header(stream)
    except (OSError, ValueError, TypeError):
        return None
    return fit_size(size, max_pixels) if max_pixels is not None and size[0] * size[1] > max_pixels else size


def fit_size(size: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    """Scale a size down to at most so many pixels, its aspect kept as far as whole pixels allow.

    Args:
        size: (width, height), of more pixels.
        max_pixels: At least 1.
    """
    shorter, longer = sorted(size)
    factor = math.sqrt(max_pixels / (shorter * longer))
    shorter = max(1, int(shorter * factor))
    # Where the shorter side would vanish, the longer one has to give.
    longer = max(1, min(int(longer * factor), max_pixels // shorter))
    return (longer, shorter) if size[0] > size[1] else (shorter, longer)


def with_budget(processor: Any, max_pixels: int | None) -> tuple[Any, int | None]:
    """Give a processor a budget of pixels, if it has one of its own.

    Args:
        processor: A model's; it stays as it is.
        max_pixels: The budget; None for the processor's own.

    Returns:
        The processor to use, and what images have to be scaled down to before it; None where it does so itself.
    """
    images: Any = getattr(processor, "image_processor", None)
    if max_pixels is None or not isinstance(getattr(images, "max_pixels", None), int):
        return processor, max_pixels
    processor, images = copy.copy(processor), copy.copy(images)
    processor.image_processor = images
    images.max_pixels = max_pixels
    if isinstance(getattr(images, "min_pixels", None), int):
        images.min_pixels = min(images.min_pixels, max_pixels)
    if isinstance(getattr(images, "size", None), dict) and {"shortest_edge", "longest_edge"} <= images.size.keys():
        # Where there are both, they are the same two numbers.
        images.size = {**images.size, "shortest_edge": images.min_pixels, "longest_edge": max_pixels}
    return processor, None


def _name_image(image: Any) -> str:
    if not isinstance(image, (str, Path)):
        return f"an image of type {type(image).__name__}"
    return shorten_name(str(image), 60 if isinstance(image, str) and is_inline(image) else 300)


def _open_stream(image: Any) -> BinaryIO:
    """Open what a header can be read from, without reading more."""
    if isinstance(image, (str, Path)) and not (isinstance(image, str) and is_inline(image)):
        return open_regular(expand(image))
    return io.BytesIO(_image_bytes(image, allow_urls=False))


def _image_bytes(image: Any, *, allow_urls: bool) -> bytes:
    if isinstance(image, bytes):
        check_length(len(image))
        return image
    if isinstance(image, str) and is_inline(image):
        # Four characters are three bytes.
        check_length(len(image) // 4 * 3)
        return decode_inline(image)
    if isinstance(image, str) and is_url(image):
        if not allow_urls:
            msg = "it is an address, and nothing is fetched without leave; set data.allow_urls = true, or download it"
            raise ValueError(msg)
        return fetch(image)
    if isinstance(image, (str, Path)):
        return read_regular(expand(image))
    msg = "expected a path, a URL, bytes or a PIL image"
    raise TypeError(msg)
