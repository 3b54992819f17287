"""Scales pictures and embeds them in a page."""

import base64
import io

import attrs
from PIL import Image

LONGEST_SIDE = 512
"""Pixels; larger pictures are scaled."""
MOST_BYTES = 64_000
"""Most bytes of a picture, before base64."""
SMALLER = 0.75
"""Factor by which the sides are scaled repeatedly until a picture is small enough."""
SHORTEST_SIDE = 32
"""Smallest longer side in pixels, even if the picture has more bytes."""
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
    """Prepare a picture for a page. Pure.

    Args:
        image: The picture, of any size and mode.
        about: Its description, for readers who cannot see it.
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
    """Convert a picture to RGB, on a white background."""
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
    """Encode a picture, and return bytes and type: PNG if that is small, else JPEG."""
    png, jpeg = io.BytesIO(), io.BytesIO()
    image.save(jpeg, "JPEG", quality=QUALITY)
    # PNG files of photos are slow to make, and larger.
    if max(image.size) > SMALL_SIDE and image.getcolors(FEW_COLOURS) is None:
        return jpeg.getvalue(), "jpeg"
    image.save(png, "PNG", optimize=True)
    return min(((png.getvalue(), "png"), (jpeg.getvalue(), "jpeg")), key=lambda written: len(written[0]))
