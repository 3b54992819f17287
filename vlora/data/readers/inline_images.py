"""Pictures within texts: data URLs and bare base64. Pure."""

import base64
import binascii
import re

DATA_SCHEME = "data:"
SHORTEST = 40
"""Shortest base64 that may be a picture; only Netpbm has smaller ones."""

NETPBM, SHORTEST_NETPBM = "UD", 12
"""Beginning of base64 of Netpbm pictures, and the length of the smallest one."""

_URL_SAFE = str.maketrans("-_", "+/")
HEAD = 64
"""Bytes, or characters of base64, by which a picture is recognized."""
_BEGINNINGS = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff[\xc0-\xfe]|GIF8[79]a|RIFF....WEBP|BM....\0\0\0\0|II\*\0|MM\0\*|....ftyp(?:avif|avis|mif1|heic)"
    rb"|\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51|P[1-6]\s+(?:#[^\n]*\n\s*)*\d+\s+\d+\s",
    re.DOTALL,
)
"""Beginnings of picture files, longer than letters with which a name may begin, too."""


def is_inline(text: str) -> bool:
    """Whether a text for an image is the image itself, and neither a path nor an address."""
    return text[: len(DATA_SCHEME)].lower() == DATA_SCHEME or _is_picture(text)


def decode_inline(text: str) -> bytes:
    """Return the bytes of an image that `is_inline`.

    Raises:
        ValueError: The base64 is damaged, or a data URL has none.
    """
    if text[: len(DATA_SCHEME)].lower() == DATA_SCHEME:
        header, comma, text = text.partition(",")
        if not comma or not header.lower().endswith(";base64"):
            msg = "the data URL has no base64; expected data:image/png;base64,..."
            raise ValueError(msg)
    return _decode(text)


def begins_picture(data: bytes) -> bool:
    """Whether bytes begin like a picture of a known format; the first `HEAD` bytes are enough."""
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
    # Line breaks, the URL-safe alphabet and missing padding are accepted.
    plain = "".join(text.split()).translate(_URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        msg = f"its base64 is damaged ({error})"
        raise ValueError(msg) from None
