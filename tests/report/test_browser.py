"""The browser's checks find each fault that they look for."""

from pathlib import Path
from typing import TYPE_CHECKING

from tests.report.browser import find_faults

if TYPE_CHECKING:
    from playwright.sync_api import Browser

GOOD = "<p>Well.</p><a href='#here'>a link</a><details><summary>more</summary><p>and more</p></details>"
DOT = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
WIDE = "<div style='position: absolute; left: 0; width: 3000px'>wide</div>"
FAULTS = {
    "<img alt='a dot' src='data:image/png;base64,AAAA'>": "a picture does not load: 'a dot'",
    f"<img src='{DOT}'>": "a picture says nothing of itself",
    "<script>console.log('hello')</script>": "the console says: hello",
    "<script>nowhere()</script>": "an error: nowhere is not defined",
    "<link rel=stylesheet href='http://example.org/a.css'>": "a request: http://example.org/a.css",
    WIDE: "scrolls horizontally, 3000 pixels of",
    "<p style='font-size: 11px'>tiny</p>": "P 'tiny' is 11.0 pixels high",
    "<svg width=9 height=9 viewBox='0 0 18 18'><text fill=CanvasText font-size=16>x</text></svg>": "'x' is 8.0 pixels",
    "<p style='color: #999; background: #fff'>pale</p>": "P 'pale' has a contrast of 2.85 only",
    "<p style='opacity: .3'>faint</p>": "P 'faint' has a contrast of",
    "<a href='#x' tabindex=0 style='outline: none'>no ring</a>": "A no ring does not show its focus",
    "<a href='#x'></a>": "A has no name",
    "<div style='overflow: auto; width: 50px' tabindex=-1><p style='width: 90px'>box</p></div>": "not reach DIV box",
}


def write(folder: Path, body: str) -> Path:
    """Write a page around a body."""
    path = folder / "page.html"
    scheme = "<meta name='color-scheme' content='light dark'><meta name=viewport content='width=device-width'>"
    path.write_text(
        f"<!DOCTYPE html><html lang=en><head>{scheme}<title>A page</title></head><body>{body}</body></html>"
    )
    return path


def test_a_good_page_has_none(browser: "Browser", tmp_path: Path) -> None:
    """Neither plain text nor what is folded is a fault."""
    assert not find_faults(browser, write(tmp_path, f"{GOOD}<img alt='a dot' src='{DOT}'>"), pictures=1)
    assert find_faults(browser, write(tmp_path, GOOD), pictures=1)[0] == "1280 pixels wide, light: 0 pictures, not 1"


def test_faults_are_found(browser: "Browser", tmp_path: Path) -> None:
    """Each is named, and nothing else."""
    found = find_faults(browser, write(tmp_path, GOOD + "".join(FAULTS)))

    for fault in FAULTS.values():
        assert any(fault in one for one in found), fault
    named = (*FAULTS.values(), "the console says: Failed to load resource", "horizontally when all is unfolded")
    assert not [one for one in found if not any(fault in one for fault in named)]


def test_what_is_folded_is_looked_at(browser: "Browser", tmp_path: Path) -> None:
    """A page that is narrow until something is unfolded scrolls then."""
    found = find_faults(browser, write(tmp_path, f"<details><summary>a</summary>{WIDE}</details>"))

    assert len(found) == 4
    assert all("scrolls horizontally when all is unfolded, 3000 pixels of" in one for one in found)
