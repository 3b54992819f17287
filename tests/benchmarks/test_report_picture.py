"""The picture of a report."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from benchmarks.report_picture import draw

if TYPE_CHECKING:
    from playwright.sync_api import Browser

README_PICTURE = Path(__file__).parents[2] / "benchmarks" / "report.png"


def test_a_picture_shows_the_page(browser: "Browser", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As wide and as high as was asked for, in the colours of the page."""
    page = tmp_path / "page.html"
    page.write_text("<html><body style='margin:0'><div style='background:#0000ff;height:2000px'></div></body></html>")
    monkeypatch.setattr("tests.report.browser.open_browser", lambda: nullcontext(browser))
    draw(tmp_path / "page.png", page, 320, 1200)

    with Image.open(tmp_path / "page.png") as picture:
        assert picture.size == (320, 1200)
        assert picture.convert("RGB").getpixel((300, 1100)) == (0, 0, 255)


def test_the_readmes_picture_is_small() -> None:
    """It comes with every checkout."""
    assert README_PICTURE.stat().st_size < 300_000
