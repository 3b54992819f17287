"""Images of rows, opened: whatever a row holds becomes an upright RGB picture."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import attrs
from PIL import Image

from ....data.format.image_sizes import Asked, Size, SizedImage
from ....data.readers.inline_images import decode_inline, is_inline
from ....data.readers.urls import fetch, is_url
from ....errors import SampleError
from ....system.digests import digest
from ....system.files import check_length, expand, open_regular, read_regular
from ....system.redaction import shorten_name
from .decoding import decode
from .decoding import read_size as read_header
from .resizing import Resizer


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
    image = _unwrap(image)
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


@attrs.frozen
class StoredImage:
    """An image as it is stored.

    Attributes:
        name: How errors name it.
        size: (width, height) in pixels, upright.
        asked: The size that the row asks for it.
    """

    name: str
    size: Size
    asked: Asked | None = None


def stored_image(content: ImageContent, source: str) -> StoredImage:
    """Say how an image is stored that has been read.

    Raises:
        SampleError: It is no image.
    """
    try:
        data = content.data
        size = data.size if isinstance(data, Image.Image) else read_header(io.BytesIO(data), to_end=True)
    except ValueError as error:
        msg = f"{source}: cannot read the image {content.name}: {error}"
        raise SampleError(msg) from None
    return StoredImage(content.name, size, content.asked)


def look_at_image(image: Any, source: str, *, allow_urls: bool = False) -> StoredImage:
    """Say how an image is stored, by its header if that says it.

    Args:
        image: As for `read_image`, as are the next two.
        source: See above.
        allow_urls: See above.

    Raises:
        SampleError: As `read_image`, or it is no image.
    """
    asked = image.asked if isinstance(image, SizedImage) else None
    bare = image.image if asked is not None else image
    size = read_size(bare, to_end=True)
    if size is None:
        return stored_image(read_image(image, source, allow_urls=allow_urls), source)
    return StoredImage(_name_image(_unwrap(bare)), size, asked)


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


def read_size(image: Any, resizer: Resizer | None = None, *, to_end: bool = False) -> tuple[int, int] | None:
    """Say how large an image will be for the processor, from its file's header alone.

    Args:
        image: As for `read_image`.
        resizer: Says what becomes of sizes; None if they stay.
        to_end: Look for what turns the picture behind its header too, as decoding does.

    Returns:
        (width, height) in pixels; None where more than the header would be needed, or there is no image.
    """
    resizer = resizer or Resizer()
    asked = image.asked if isinstance(image, SizedImage) else None
    if resizer.shape is not None and asked is None:
        return resizer.shape[1], resizer.shape[0]
    image = _unwrap(image.image if isinstance(image, SizedImage) else image)
    if isinstance(image, str) and is_url(image):
        return None
    try:
        if isinstance(image, Image.Image):
            return resizer.before_processor(read_header(image, to_end=to_end), asked)
        with _open_stream(image) as stream:
            return resizer.before_processor(read_header(stream, to_end=to_end), asked)
    except (OSError, ValueError, TypeError):
        return None


def name_content(image: Any) -> bytes:
    """Stand for an image without reading a file: by its path or address, or by the bytes or pixels that there are."""
    if isinstance(image, SizedImage):
        return name_content(image.image) + str(image.asked).encode()
    image = _unwrap(image)
    if isinstance(image, Image.Image):
        return digest([str((image.size, image.mode)).encode(), image.tobytes()]).encode()
    if isinstance(image, bytes):
        return digest([image]).encode()
    return str(image).encode("utf-8", "surrogatepass")


def _unwrap(image: Any) -> Any:
    if not isinstance(image, Mapping):
        return image
    return image.get("bytes") if image.get("bytes") is not None else image.get("path")


def _name_image(image: Any) -> str:
    if not isinstance(image, (str, Path)):
        return f"of type {type(image).__name__}"
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
