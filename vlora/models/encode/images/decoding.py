"""Pictures decoded: of formats that are known, of a size that can be held, whatever their mode.

What a decoder raises is its own affair, and differs by format and version; all of it is about the one picture.
Pillow's warnings and log lines of odd metadata are about nothing that is used here, and would stand in the midst of a
run's lines.

Grey values of more than 8 bits are made 8 bits of by one rule. Whole numbers from 0 on are taken to fill the smallest
of 8, 10, 12, 14 and 16 bits that holds the largest of them, as cameras and scanners write them; floats between 0 and 1
fill that range; all else is stretched from its smallest value to its largest. What is not finite is refused.
"""

import importlib.util
import io
import logging
import re
import warnings
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

LARGEST_PICTURE = 178_956_970
"""Pixels of a picture; twice Pillow's own bound, which is where Pillow stops too."""

FORMATS = (
    *("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"),
    *(("AVIF",) if importlib.util.find_spec("PIL.AvifImagePlugin") else ()),
)
"""What is decoded, by Pillow's names; nothing that starts programs, and nothing that is told by guessing."""

_HEIC = re.compile(rb"....ftyp(?:hei[cxms]|hev[cx])", re.DOTALL)
"""How the files begin in which phones keep photographs; Pillow does not read them."""

BIT_DEPTHS = (8, 10, 12, 14, 16)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What puts a picture upright, by the orientation that its camera wrote."""

_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
"""The filter of warnings that lets none of Pillow's through, as `warnings` keeps it."""

logging.getLogger("PIL").addHandler(logging.NullHandler())


class _RefusedError(ValueError):
    """A picture that is whole, and not taken all the same."""


def decode(picture: bytes | Image.Image) -> Image.Image:
    """Decode a picture as upright RGB, transparent places white; of several frames the first.

    Args:
        picture: The bytes of a file, or a picture that is open.

    Raises:
        ValueError: It cannot be decoded; why.
    """
    _be_quiet()
    try:
        if isinstance(picture, bytes):
            _check_end(picture)
            picture = Image.open(io.BytesIO(picture), formats=FORMATS)
        check_size(picture.size)
        picture.load()
        return _to_rgb(_turn(picture))
    except Exception as error:  # noqa: BLE001 - decoders raise anything; it is about this picture
        raise ValueError(_explain(error, picture)) from None


def read_size(picture: BinaryIO | Image.Image, *, to_end: bool = False) -> tuple[int, int]:
    """Read (width, height) of the upright picture from its header; what is behind the header is not looked at.

    Args:
        picture: A file, or a picture that is open.
        to_end: Look for what turns the picture behind its header too; only in PNG may it stand there.

    Raises:
        ValueError: There is no such header.
    """
    _be_quiet()
    try:
        opened = picture if isinstance(picture, Image.Image) else Image.open(picture, formats=FORMATS)
        check_size(opened.size)
        # PNG reads the whole file to look for it.
        is_known = to_end or "exif" in opened.info
        turned = is_known and opened.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    except Exception as error:  # noqa: BLE001 - as above
        raise ValueError(_explain(error, picture)) from None
    return (opened.height, opened.width) if turned else opened.size


def check_size(size: tuple[int, int]) -> None:
    """Refuse what would take too much memory, before it is decoded.

    Raises:
        ValueError: A picture of this (width, height) is too large, or empty.
    """
    width, height = size
    if width * height > LARGEST_PICTURE:
        msg = f"it has {width:,} x {height:,} pixels, more than the {LARGEST_PICTURE:,} that a picture may have"
        raise _RefusedError(msg)
    if not width or not height:
        msg = f"it has {width:,} x {height:,} pixels"
        raise _RefusedError(msg)


def _be_quiet() -> None:
    # For the process: a filter for the time of a `with` is every thread's, and outlasts it where two overlap. Another
    # module's `with` may have taken it away.
    if _QUIET not in warnings.filters:
        warnings.filterwarnings("ignore", module=_QUIET[3].pattern)


def _check_end(data: bytes) -> None:
    """Find what decoding does not: a damaged PNG by its checksums, a JPEG 2000 that is cut short by its end.

    Raises:
        OSError: It is damaged, or cut short.
    """
    if data.startswith(b"\x89PNG"):
        with Image.open(io.BytesIO(data), formats=["PNG"]) as opened:
            check_size(opened.size)
            opened.verify()
    elif data.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP")) and b"\xff\xd9" not in data:
        msg = "it has no end"
        raise OSError(msg)


def _explain(error: Exception, picture: bytes | BinaryIO | Image.Image) -> str:
    if isinstance(error, UnidentifiedImageError):
        if _HEIC.match(_beginning(picture)):
            return "it is a HEIC picture, as phones take them, which is not read; write it as JPEG or PNG"
        return f"it is damaged, or in none of the formats that are read ({', '.join(FORMATS)})"
    if isinstance(error, (_RefusedError, Image.DecompressionBombError)):
        return str(error)
    return f"it is damaged or cut short ({error or type(error).__name__})"


def _turn(image: Image.Image) -> Image.Image:
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":
        return Image.fromarray(to_8_bits(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        # Transparent pixels have any colour below; white is what a reader would see.
        canvas = Image.new("RGBA", image.size, "white")
        # Premultiplied grey knows one way only.
        canvas.alpha_composite((image.convert("LA") if image.mode == "La" else image).convert("RGBA"))
        image = canvas
    if image.mode == "LAB":
        msg = "its colours are L*a*b*, of which Pillow makes no RGB; write it as RGB"
        raise _RefusedError(msg)
    return image.convert("RGB")


def to_8_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Make 8 bits of the grey values of a deep picture; the rule stands above.

    Args:
        values: [height, width], whole numbers or floats.

    Returns:
        uint8, of the same shape.

    Raises:
        ValueError: Some are not finite.
    """
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        msg = "some of its values are no finite numbers; write it with numbers of a known range"
        raise _RefusedError(msg)
    if values.dtype.kind == "f":
        bounds: tuple[float, ...] = (1.0,)
    else:
        bounds = tuple(2.0**bits - 1 for bits in BIT_DEPTHS)
    top = next((bound for bound in bounds if low >= 0 and high <= bound), None)
    start, top = (0.0, top) if top is not None else (low, high)
    if start == top:
        # One value throughout, of no range that is known: neither black nor white.
        return np.full(values.shape, 128, dtype=np.uint8)
    return np.rint((values.astype(np.float64) - start) * (255.0 / (top - start))).astype(np.uint8)


def _beginning(picture: bytes | BinaryIO | Image.Image) -> bytes:
    if isinstance(picture, Image.Image):
        return b""
    if isinstance(picture, bytes):
        return picture[:16]
    picture.seek(0)
    return picture.read(16)
