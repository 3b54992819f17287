"""Columns that look like images, and that nothing reads, are named."""

import base64
import io
from typing import Any

import pytest
from PIL import Image

from tests.data.format.conversations import complaint_of
from vlora import format_sample
from vlora.data.format.samples import Reading, read_sample
from vlora.errors import SampleError


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, kind)
    return buffer.getvalue()


LOST: dict[str, Any] = {
    **dict.fromkeys(("imgs", "img", "picture", "Photo", "image_path", "image_1", "img-2", "pixel_values"), "somewhere"),
    "image_url": {"url": "https://example.org/x"},
    "plate": "folder/scan.TIFF",
    "before": ["a.jpg", "b.jpg"],
    "link": "https://example.org/a.webp?size=3",
    "scan": encoded("PNG"),
    "frame": encoded("JPEG2000"),
    "map": encoded("PPM"),
    "telephone": b"\0\0\0\x18ftypheic" + bytes(16),
    "telephone_text": base64.b64encode(b"\0\0\0\x18ftypheic" + bytes(32)).decode(),
    "raw": {"bytes": encoded("JPEG"), "path": None},
    "drawing": Image.new("L", (2, 2)),
    "nested": {"views": [{"side": "left", "file": "c.png"}]},
    "cell": '["a.png", "b.png"]',
    "inline": "data:image/png;base64,AAAA",
}


@pytest.mark.parametrize("column", LOST)
def test_pictures_that_nothing_reads(column: str) -> None:
    """An unused column of pictures, by name or by content, is refused; the recipe may set it aside."""
    row = {"question": "What?", "answer": "A cat.", column: LOST[column]}

    problem = complaint_of(row)

    assert repr(column) in problem
    assert f'data.columns map it ({column} = "images")' in problem
    assert format_sample(row, columns={column: "unused"}).images == ()
    assert len(format_sample(row, columns={column: "images"}).images) >= 1


def test_pictures_by_declared_type() -> None:
    """A column that is declared to hold images is refused whatever it holds."""
    row = {"question": "What?", "answer": "A cat.", "thing": {"bytes": b"?", "path": None}}

    with pytest.raises(SampleError, match="'thing' looks like images"):
        read_sample(row, "row", Reading(kinds={"thing": "image"}))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("image_id", 3),
        ("image_width", 640),
        ("images_2", []),
        ("img", None),
        ("notes", "See the picture."),
        ("audio", {"bytes": b"RIFF....WAVE", "path": "a.wav"}),
        ("boxes", [[1, 2, 3, 4]]),
        ("file_name", "deep/a.png"),
    ],
)
def test_other_columns_are_no_pictures(column: str, value: Any) -> None:
    """Numbers, other media, empty columns and the name of the image that is read are only named."""
    row = {"question": "What?", "answer": "A cat.", "image": "a.png", column: value}

    _, use = read_sample(row, "row", Reading())

    assert use.unused == {column}
