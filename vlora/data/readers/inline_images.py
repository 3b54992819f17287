"""Pictures written into texts: data URLs, and bare base64 of a picture. Pure."""

import base64
import binascii
import re

DATA_SCHEME = "data:"
SHORTEST = 40
"""Characters of base64 below which a text is a name; the smallest pictures have more, but for those of Netpbm."""

NETPBM, SHORTEST_NETPBM = "UD", 12
"""How base64 of a picture of Netpbm begins, and the characters that one pixel takes at least."""

_URL_SAFE = str.maketrans("-_", "+/")
HEAD = 64
"""Bytes, or characters of base64, that are looked at to see whether they are a picture."""
_BEGINNINGS = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff[\xc0-\xfe]|GIF8[79]a|RIFF....WEBP|BM....\0\0\0\0|II\*\0|MM\0\*|....ftyp(?:avif|avis|mif1|heic)"
    rb"|\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51|P[1-6]\s+(?:#[^\n]*\n\s*)*\d+\s+\d+\s",
    re.DOTALL,
)
"""How files of the formats begin: by more than the two or three letters that a name may begin with, too."""


def is_inline(text: str) -> bool:
    """Whether a text that stands for an image is the image itself, and no path and no address."""
    return text[: len(DATA_SCHEME)].lower() == DATA_SCHEME or _is_picture(text)


def decode_inline(text: str) -> bytes:
    """Give the bytes of an image that `is_inline`.

    Raises:
        ValueError: Its base64 is damaged, or a data URL has none.
    """
    if text[: len(DATA_SCHEME)].lower() == DATA_SCHEME:
        header, comma, text = text.partition(",")
        if not comma or not header.lower().endswith(";base64"):
            msg = "the data URL has no base64; expected data:image/png;base64,..."
            raise ValueError(msg)
    return _decode(text)


def begins_picture(data: bytes) -> bool:
    """Whether bytes begin as a picture of a known format does; the first `HEAD` of them say so."""
    return _BEGINNINGS.match(data) is not None


def _is_picture(text: str) -> bool:
    if len(text) < (SHORTEST_NETPBM if text.startswith(NETPBM) else SHORTEST):
        return False
    head = "".join(text[: 2 * HEAD].split())[:HEAD]
    try:
        data = _decode(head[: len(head) // 4 * 4].rstrip("="))
    except ValueError:
        return False
    return begins_picture(data)


def _decode(text: str) -> bytes:
    # Lines, the alphabet of addresses and missing padding are left as writers leave them.
    plain = "".join(text.split()).translate(_URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        msg = f"its base64 is damaged ({error})"
        raise ValueError(msg) from None
