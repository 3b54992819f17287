"""Images as they are opened: upright, as RGB, white where nothing is, and refused with what names them."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.models.encode.conversations import picture, sample_of
from vlora.errors import SampleError
from vlora.models import Encoder, name_content, open_image, sample_content

Encoding = Callable[..., Encoder]


def encoded_bytes(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


def corner(image: Any) -> tuple[int, ...]:
    opened = open_image(image, "rows row 3", None)

    assert opened.mode == "RGB"
    found = opened.getpixel((0, 0))
    assert isinstance(found, tuple)
    return found


def test_transparent_images() -> None:
    """Transparent pixels become white, half-transparent ones a mixture, opaque ones stay."""
    assert corner(Image.new("RGBA", (4, 4), (255, 0, 0, 0))) == (255, 255, 255)
    assert corner(Image.new("RGBA", (4, 4), (255, 0, 0, 255))) == (255, 0, 0)
    red, green, blue = corner(Image.new("RGBA", (4, 4), (255, 0, 0, 128)))
    assert (red, green // 4, blue // 4) == (255, 127 // 4, 127 // 4)
    assert corner(Image.new("LA", (4, 4), (10, 0))) == (255, 255, 255)


def test_palette_images() -> None:
    """A palette's colours come out, and its transparent colour becomes white."""
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])

    assert corner(palette) == (10, 20, 30)
    assert corner(encoded_bytes(palette)) == (10, 20, 30)
    assert corner(encoded_bytes(palette, transparency=1)) == (255, 255, 255)


def test_grey_images() -> None:
    """Grey pictures of 1, 8 and 16 bits keep their brightness."""
    assert corner(Image.new("1", (4, 4), 1)) == (255, 255, 255)
    assert corner(encoded_bytes(Image.new("L", (4, 4), 77))) == (77, 77, 77)
    deep = Image.fromarray(np.full((4, 4), 77 * 257, dtype=np.uint16))
    assert corner(encoded_bytes(deep)) == (77, 77, 77)
    assert corner(Image.new("CMYK", (4, 4), (0, 0, 0, 0))) == (255, 255, 255)


def test_rotated_images() -> None:
    """A picture that its camera marked as turned is put upright."""
    image = picture(width=48, height=32)
    exif = Image.Exif()
    exif[0x0112] = 6

    assert open_image(encoded_bytes(image, exif=exif), "row", None).size == (32, 48)
    assert open_image(encoded_bytes(image, exif=exif), "row", (10, 20)).size == (20, 10)


@pytest.mark.parametrize("family", ["qwen3_vl", "llava", "mllama", "pixtral"])
@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "1", "LA", "CMYK"])
def test_modes_reach_the_model(family: str, mode: str, encoder: Encoding) -> None:
    """A picture of any mode is encoded like its RGB self."""
    image = picture().convert("L").convert(mode) if mode == "LA" else picture().convert(mode)
    rgb = open_image(image, "row", None)
    turns = (("user", "<>", "What?"), ("assistant", "a"))
    encode = encoder(family)

    found, expected = (encode(sample_of(*turns, images=(one,))) for one in (image, rgb))

    assert np.array_equal(found.inputs["pixel_values"], expected.inputs["pixel_values"])


def test_ways_to_name_an_image(tmp_path: Path) -> None:
    """Paths, bytes, data URIs, PIL images and `datasets` images open alike."""
    image = picture()
    path = tmp_path / "a.png"
    image.save(path)
    data = path.read_bytes()
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    ways = [image, path, str(path), data, uri, {"bytes": data, "path": None}, {"bytes": None, "path": str(path)}]

    for way in ways:
        assert open_image(way, "row", None).tobytes() == image.tobytes()


@pytest.mark.parametrize(
    ("image", "word"),
    [
        ("missing/cat.png", "missing/cat.png"),
        (b"no image", "bytes"),
        ("data:image/png;base64,!!!", "data:image/png"),
        ({"bytes": None, "path": None}, "NoneType"),
        (3, "int"),
        ("a\0b.png", "a"),
    ],
)
def test_unreadable_images(image: Any, word: str) -> None:
    """An image that cannot be read is a bad row, with what it was given as."""
    with pytest.raises(SampleError, match=r"^rows row 3: cannot read the image") as caught:
        open_image(image, "rows row 3", None)

    assert word in str(caught.value)


def test_long_names_are_shown_whole(tmp_path: Path) -> None:
    """The message about a missing image holds its whole path."""
    path = tmp_path / ("a" * 100) / "cat.png"

    with pytest.raises(SampleError, match=str(path)):
        open_image(str(path), "row", None)


def test_content_is_told_by_the_ends_of_files(tmp_path: Path) -> None:
    """Files of other names are the same image, and those of other beginnings, ends or lengths are not."""
    data = bytes(range(256)) * 1_000
    contents = {"a": data, "same": data, "begins": b"x" + data[1:], "ends": data[:-1] + b"x", "longer": data + b"x"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    found = {name: sample_content(tmp_path / name) for name in contents}

    assert found["a"] == found["same"] == sample_content({"path": str(tmp_path / "same"), "bytes": None})
    assert len(set(found.values())) == len(contents) - 1
    assert sample_content(str(tmp_path / "nowhere")) == name_content(str(tmp_path / "nowhere"))
    assert sample_content(data) == name_content(data)
