r"""Finds marks in texts that stand for images and other media. Pure.

`<image>` and `<ImageHere>` stand for the next image of a row, `<image 1>` for its first. A backslash before a mark
makes it a word: `\<image>` is read as the text "<image>".
"""

import re
from collections.abc import Iterator

import attrs

from .image_sizes import Asked

IMAGE_TAG = "<image>"

_NEXT = r"<image>|<ImageHere>"
_NUMBERED = r"<\|?[iI]mage[ _-]?(?P<number>\d{1,4})\|?>"
_FOREIGN = (
    r"<(?:video|audio|VideoHere|AudioHere|speech|sound|image_placeholder|image_soft_token|start_of_image|__media__)>"
    r"|<\|?(?:video|audio)[ _-]?\d{1,4}\|?>"
    r"|<\|(?:image|video|audio|image_pad|video_pad|audio_pad|vision_start|vision_end|media_pad|begin_of_image)\|>"
    r"|\[IMG\]"
    # Qwen-VL's and ms-swift's older layout names the file within the text.
    r"|<(?:img|audio|video)>[^<>\n]{1,2048}</(?:img|audio|video)>"
)
_MARK = re.compile(rf"(?P<escape>\\?)(?P<mark>(?P<next>{_NEXT})|{_NUMBERED}|(?P<foreign>{_FOREIGN}))")


@attrs.frozen
class Mark:
    """A mark in a text.

    Attributes:
        text: As it is written.
        number: Number of the row's image that it stands for, from 1; None for the next one.
        is_foreign: Whether it stands for a medium that rows cannot have, or is a token of some model.
        asked: The size that the row requests for its image.
    """

    text: str
    number: int | None = None
    is_foreign: bool = False
    asked: Asked | None = None


def split_marks(text: str) -> Iterator[str | Mark]:
    """Split a text at its marks; escaped marks are text."""
    written, place = "", 0
    for found in _MARK.finditer(text):
        written += text[place : found.start()]
        place = found.end()
        if found["escape"]:
            written += found["mark"]
            continue
        yield written
        written = ""
        yield Mark(found["mark"], int(found["number"]) if found["number"] else None, bool(found["foreign"]))
    yield written + text[place:]
