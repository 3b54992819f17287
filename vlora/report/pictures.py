"""Pictures in a page: scaled to what can be looked at, and written into it."""

import base64
import io

import attrs
from PIL import Image

LONGEST_SIDE = 512
"""Pixels; larger pictures are scaled."""
MOST_BYTES = 64_000
"""Of one picture, before it is written in base64."""
SMALLER = 0.75
"""What the sides are multiplied by until a picture has no more bytes."""
SHORTEST_SIDE = 32
"""Pixels of the longer side that a picture keeps, whatever its bytes."""
QUALITY = 80
"""Of a JPEG."""
SMALL_SIDE, FEW_COLOURS = 128, 1_024
"""Pixels of the longer side, and colours, up to which a picture may be smaller as a PNG."""


@attrs.frozen(kw_only=True)
class Picture:
    """A picture of a page.

    Attributes:
        uri: All its bytes.
        width: In pixels, as it is shown.
        height: Likewise.
        label: Its size, and the one at which it is shown if that is another.
        about: What it shows, in words.
        zoom: How many times as large as it is it is shown.
    """

    uri: str
    width: int
    height: int
    label: str
    about: str
    zoom: int = 1


def make_picture(
    image: Image.Image,
    about: str,
    *,
    most_bytes: int = MOST_BYTES,
    longest_side: int = LONGEST_SIDE,
    least_side: int = 1,
) -> Picture:
    """Write a picture as a page holds it. Pure.

    Args:
        image: The picture, of any size and mode.
        about: What it shows, for readers who do not see it.
        most_bytes: What it may take, before base64; it is scaled down until it does, or is very small.
        longest_side: Pixels; a larger picture is scaled.
        least_side: Pixels; the longer side of a smaller picture is shown at most that large, in whole times its size.
    """
    image = _flatten(image)
    side = min(longest_side, max(image.size))
    while True:
        shown = _scale(image, side)
        data, kind = _write(shown)
        if len(data) <= most_bytes or side <= SHORTEST_SIDE:
            break
        side = max(SHORTEST_SIDE, int(side * SMALLER))
    label = f"{image.width}x{image.height}"
    if shown.size != image.size:
        label += f", shown at {shown.width}x{shown.height}"
    zoom = max(1, least_side // max(shown.size))
    label += f", shown {zoom} times as large" * (zoom > 1)
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Picture(uri=uri, width=shown.width, height=shown.height, label=label, about=about, zoom=zoom)


def _flatten(image: Image.Image) -> Image.Image:
    """Give a picture in RGB; what is transparent is white, as on paper."""
    if image.mode == "RGB":
        return image
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _scale(image: Image.Image, side: int) -> Image.Image:
    longest = max(image.size)
    if longest <= side:
        return image
    width, height = (max(1, round(length * side / longest)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _write(image: Image.Image) -> tuple[bytes, str]:
    """Give a picture's bytes and their kind: PNG, which has every pixel, where that is small, or else JPEG."""
    png, jpeg = io.BytesIO(), io.BytesIO()
    image.save(jpeg, "JPEG", quality=QUALITY)
    # Of a photo a PNG takes long to make and is larger.
    if max(image.size) > SMALL_SIDE and image.getcolors(FEW_COLOURS) is None:
        return jpeg.getvalue(), "jpeg"
    image.save(png, "PNG", optimize=True)
    return min(((png.getvalue(), "png"), (jpeg.getvalue(), "jpeg")), key=lambda written: len(written[0]))
