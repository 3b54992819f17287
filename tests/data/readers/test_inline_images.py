"""Pictures written into texts: data URLs and bare base64 are told from paths, and damaged ones are refused."""

import base64
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlora.data.readers.inline_images import begins_picture, decode_inline, is_inline


def picture(kind: str = "PNG") -> bytes:
    """Write a small picture."""
    stream = io.BytesIO()
    Image.new("RGB", (9, 7), "red").save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_pictures_are_told_by_their_beginning(kind: str) -> None:
    """Bare base64 of every format is a picture, and its bytes come back."""
    data = picture(kind)
    text = base64.b64encode(data).decode()

    assert begins_picture(data)
    assert is_inline(text)
    assert decode_inline(text) == data


@given(st.binary(max_size=99))
def test_data_urls_come_back(data: bytes) -> None:
    """The bytes of a data URL are those that were written, whatever they are."""
    url = "data:image/png;base64," + base64.b64encode(data).decode()

    assert is_inline(url)
    assert decode_inline(url) == data


@pytest.mark.parametrize(
    "change",
    [str, lambda text: text.rstrip("="), lambda text: "\n".join(text[n : n + 8] for n in range(0, len(text), 8))],
)
def test_base64_as_writers_write_it(change: object) -> None:
    """The alphabet of addresses, missing padding and lines are read."""
    data = picture()
    text = base64.urlsafe_b64encode(data).decode()

    assert decode_inline(change(text)) == data  # type: ignore[operator]


@pytest.mark.parametrize("text", ["", "cat.png", "images/" + "a" * 60 + ".png", "https://a.org/b.png", "BM" * 30])
def test_names_are_no_pictures(text: str) -> None:
    """Paths and addresses are no pictures, however long."""
    assert not is_inline(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("data:image/png;base64,!!!", "its base64 is damaged"),
        ("data:image/png,abc", "the data URL has no base64"),
        ("data:image/png;base64", "the data URL has no base64"),
    ],
)
def test_damaged_pictures_are_refused(text: str, problem: str) -> None:
    """A data URL without base64, or with other characters, is an error."""
    with pytest.raises(ValueError, match=problem):
        decode_inline(text)


def test_the_smallest_pictures_are_pictures() -> None:
    """Two pixels of Netpbm have fewer characters than many names; a name that begins alike is none."""
    for data in (b"P6\n2 1\n255\n\x1a\x9b[\x0bM\x8e", b"P1 1 1\n1\n"):
        text = base64.b64encode(data).decode()
        assert is_inline(text)
        assert decode_inline(text) == data
    for name in ("UD.png", "UDYK", "UDirectory/file", "UDYKMjIyMjIyMjIy"):
        assert not is_inline(name)
