"""Images of rows, opened: whatever a row holds becomes an upright RGB picture."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from PIL import Image

from ....data.format.image_sizes import Asked, SizedImage
from ....data.readers.inline_images import decode_inline, is_inline
from ....data.readers.urls import fetch, is_url
from ....errors import SampleError
from ....system.digests import digest
from ....system.files import check_length, expand, find_alike, open_regular, read_regular
from ....system.redaction import shorten_name
from .decoding import decode
from .resizing import Resizer

SAMPLED_BYTES = 2**15
"""Of a file's beginning and of its end, by which `sample_content` tells files of one length apart."""


@attrs.frozen(eq=False)
class ImageContent:
    """An image as a row gives it, read but not decoded.

    Attributes:
        name: How errors name it.
        data: The file's bytes, or a picture that is decoded already.
        digest: Stands for the content, the file's bytes or the picture's pixels, and for what is asked.
        asked: The size that the row asks for it.
    """

    name: str
    data: bytes | Image.Image
    digest: str
    asked: Asked | None = None


def read_image(image: Any, source: str, *, allow_urls: bool = False) -> ImageContent:
    """Read an image, without decoding it: who decodes it later sees the same, whatever becomes of the file.

    Args:
        image: A path, a URL, a data URI, bytes, a PIL image, a `datasets` image `{"bytes", "path"}`, or one of these
            with a size.
        source: The row, for errors.
        allow_urls: Whether images behind addresses are fetched.

    Raises:
        SampleError: There is no such file, or nothing that an image can be read from.
    """
    if isinstance(image, SizedImage):
        content = read_image(image.image, source, allow_urls=allow_urls)
        sized = digest([content.digest.encode(), str(image.asked).encode()])
        return attrs.evolve(content, digest=sized, asked=image.asked)
    image = unwrap(image)
    name = name_image(image)
    try:
        if isinstance(image, Image.Image):
            upright = decode(image)
            return ImageContent(name, upright, digest([str(upright.size).encode(), upright.tobytes()]))
        data = image_bytes(image, allow_urls=allow_urls)
        return ImageContent(name, data, digest([data]))
    except (OSError, ValueError, TypeError) as error:
        # An error of the system names the file again, at any length.
        why = getattr(error, "strerror", None) or error
        msg = f"{source}: cannot read the image {name}: {why}{_describe_alike(image, error)}"
        raise SampleError(msg) from None


def _describe_alike(image: Any, error: Exception) -> str:
    """Name the file that is meant where none has the name of an image."""
    is_missing = isinstance(error, FileNotFoundError) and isinstance(image, (str, Path))
    alike = find_alike(expand(image)) if is_missing else None
    return "" if alike is None else f"; there is {shorten_name(str(alike[0]), 300)}, written {alike[1]}"


def decode_image(content: ImageContent, source: str, resizer: Resizer) -> Image.Image:
    """Decode an image as upright RGB, of the size that the processor is to be given.

    Args:
        content: As `read_image` returns it.
        source: The row, for errors.
        resizer: Says what size that is.

    Raises:
        SampleError: It is no image, or cannot be given the size that the row asks.
    """
    try:
        opened = decode(content.data)
    except ValueError as error:
        msg = f"{source}: cannot read the image {content.name}: {error}"
        raise SampleError(msg) from None
    try:
        size = resizer.before_processor(opened.size, content.asked)
    except ValueError as error:
        msg = f"{source}: cannot resize the image {content.name}: {error}"
        raise SampleError(msg) from None
    return opened if size == opened.size else opened.resize(size, Image.Resampling.BICUBIC)


def open_image(
    image: Any,
    source: str,
    resize_shape: tuple[int, int] | None = None,
    max_pixels: int | None = None,
    *,
    allow_urls: bool = False,
) -> Image.Image:
    """Read an image and decode it, whatever size its row asks; see `Resizer` for the sizes."""
    content = read_image(image.image if isinstance(image, SizedImage) else image, source, allow_urls=allow_urls)
    return decode_image(content, source, Resizer(resize_shape, max_pixels))


def name_content(image: Any) -> bytes:
    """Stand for an image without reading a file: by its path or address, or by the bytes or pixels that there are."""
    if isinstance(image, SizedImage):
        return name_content(image.image) + str(image.asked).encode()
    image = unwrap(image)
    if isinstance(image, Image.Image):
        return digest([str((image.size, image.mode)).encode(), image.tobytes()]).encode()
    if isinstance(image, bytes):
        return digest([image]).encode()
    return str(image).encode("utf-8", "surrogatepass")


def sample_content(image: Any) -> bytes:
    """Stand for an image by what is in it: of a file its length, its beginning and its end; see `SAMPLED_BYTES`."""
    if isinstance(image, SizedImage):
        return sample_content(image.image)
    image = unwrap(image)
    is_name = isinstance(image, (str, Path)) and not (isinstance(image, str) and (is_url(image) or is_inline(image)))
    if not is_name:
        return name_content(image)
    try:
        with open_regular(expand(image)) as file:
            beginning = file.read(SAMPLED_BYTES)
            length = file.seek(0, io.SEEK_END)
            file.seek(max(len(beginning), length - SAMPLED_BYTES))
            return str(length).encode() + beginning + file.read()
    except (OSError, ValueError):
        return name_content(image)


def unwrap(image: Any) -> Any:
    """Give what an image of `datasets` holds: its bytes, or its path."""
    if not isinstance(image, Mapping):
        return image
    return image.get("bytes") if image.get("bytes") is not None else image.get("path")


def name_image(image: Any) -> str:
    """Name an image in an error, without its content."""
    if not isinstance(image, (str, Path)):
        return f"of type {type(image).__name__}"
    return shorten_name(str(image), 60 if isinstance(image, str) and is_inline(image) else 300)


def image_bytes(image: Any, *, allow_urls: bool) -> bytes:
    """Read the bytes of an image's file, wherever they are.

    Raises:
        OSError: There is no such file, or it cannot be fetched.
        ValueError: It is an address that is not to be fetched, or too long.
        TypeError: There is nothing that an image can be read from.
    """
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
