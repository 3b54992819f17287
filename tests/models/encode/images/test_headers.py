"""Sizes of images, by their headers."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.training import picture
from vlora.data.format.image_sizes import Asked, SizedImage
from vlora.errors import SampleError
from vlora.models.encode.images.headers import look_at_image, read_size, stored_image
from vlora.models.encode.images.opening import read_image
from vlora.models.encode.images.resizing import Resizer


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_read_size(suffix: str, orientation: int, tmp_path: Path) -> None:
    """The size is the upright image's, from a path, bytes, a mapping, a data URI or an open image."""
    image = Image.new("RGB", (60, 40), "red")
    exif = image.getexif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    image.save(path, exif=exif)
    size = (40, 60) if orientation > 4 else (60, 40)

    assert read_size(str(path)) == size
    assert read_size(path.read_bytes()) == size
    assert read_size({"bytes": path.read_bytes(), "path": None}) == size
    assert read_size({"bytes": None, "path": str(path)}) == size
    with Image.open(path) as opened:
        assert read_size(opened) == size
    assert read_size(str(path), Resizer(shape=(10, 20))) == (20, 10)
    width, height = read_size(str(path), Resizer(max_pixels=600)) or (0, 0)
    assert 500 < width * height <= 600


def test_sizes_that_are_not_known(tmp_path: Path) -> None:
    """Neither a URL nor what is no image is read any further."""
    (tmp_path / "a.png").write_text("no image")

    assert read_size("https://example.com/a.png") is None
    assert read_size(str(tmp_path / "a.png")) is None
    assert read_size(str(tmp_path / "b.png")) is None
    assert read_size("data:image/png;base64,AAAA") is None
    assert read_size(3) is None


def test_an_image_that_was_read_is_stored_as_its_header_says(tmp_path: Path) -> None:
    """Looked at or read, it has one size, and the one that its row asks; what is no image is refused."""
    path = tmp_path / "a.png"
    picture(48, 32).save(path)
    asked = SizedImage(str(path), Asked(max_pixels=500))
    images: list[Any] = [str(path), asked, path.read_bytes(), picture(48, 32)]
    for image in images:
        found = look_at_image(image, "row 0")
        assert found == stored_image(read_image(image, "row 0"), "row 0")
        assert found.size == (48, 32)
        assert found.asked == (asked.asked if image is asked else None)
    with pytest.raises(SampleError, match=r"^row 3: cannot read the image of type bytes: "):
        stored_image(read_image(b"no image", "row 3"), "row 3")
