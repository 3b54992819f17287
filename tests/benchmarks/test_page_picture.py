"""The picture of a page."""

from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from benchmarks import page_picture

if TYPE_CHECKING:
    import pytest
    from playwright.sync_api import Browser


def test_a_picture_of_a_page(browser: "Browser", tmp_path: Path, monkeypatch: "pytest.MonkeyPatch") -> None:
    """It has the parts that it is made of, and is small enough for a README."""
    monkeypatch.setattr(page_picture, "open_browser", lambda: _Open(browser))
    file = tmp_path / "inspect.png"
    page_picture.take(file)

    with Image.open(file) as picture:
        assert picture.width == page_picture.WIDTH
        assert picture.height > sum(height for *_, height in page_picture.PARTS)
        assert len(picture.getcolors() or ()) > 20
    assert file.stat().st_size < 300_000


class _Open:
    """A browser that is open already."""

    def __init__(self, browser: "Browser") -> None:
        self.browser = browser

    def __enter__(self) -> "Browser":
        return self.browser

    def __exit__(self, *_: object) -> None:
        """Leave it open."""
