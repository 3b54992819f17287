"""How large images of rows are, by the headers of their files where those say it."""

import io
from pathlib import Path
from typing import Any, BinaryIO

import attrs
from PIL import Image

from ....data.format.image_sizes import Asked, Size, SizedImage
from ....data.readers.inline_images import is_inline
from ....data.readers.urls import is_url
from ....errors import SampleError
from ....system.files import expand, open_regular
from .decoding import read_size as read_header
from .opening import ImageContent, image_bytes, name_image, read_image, unwrap
from .resizing import Resizer


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
    return StoredImage(name_image(unwrap(bare)), size, asked)


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
    image = unwrap(image.image if isinstance(image, SizedImage) else image)
    if isinstance(image, str) and is_url(image):
        return None
    try:
        if isinstance(image, Image.Image):
            return resizer.before_processor(read_header(image, to_end=to_end), asked)
        with _open_stream(image) as stream:
            return resizer.before_processor(read_header(stream, to_end=to_end), asked)
    except (OSError, ValueError, TypeError):
        return None


def _open_stream(image: Any) -> BinaryIO:
    """Open what a header can be read from, without reading more."""
    if isinstance(image, (str, Path)) and not (isinstance(image, str) and is_inline(image)):
        return open_regular(expand(image))
    return io.BytesIO(image_bytes(image, allow_urls=False))
