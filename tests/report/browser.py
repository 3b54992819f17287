"""Opens a page as a reader does, in headless Chromium, and says what is wrong with it.

    def test_a_page(browser: Browser, tmp_path: Path) -> None:
        assert not find_faults(browser, path)

The fixture `browser` is in `tests/conftest.py`; it skips a test where there is no Chromium.
"""

import contextlib
import io
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, FloatRect, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTHS = (1280, 400)
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
SMALLEST_TEXT = 12
LEAST_CONTRAST = 4.5
MOST_STOPS = 1_000
"""Tab keys that are pressed before a page counts as one that cannot be left."""

LONGEST_WAIT_MS = 300_000
"""For how long a page may load: Chromium shares the machine with other tests."""

TEXTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const seen = new Map();
  const parse = color => {
    if (!seen.has(color)) {
      canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
      seen.set(color, [r, g, b, a / 255]);
    }
    return seen.get(color);
  };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const behind = element => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
    const canvasColor = matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18, 1] : [255, 255, 255, 1];
    return layers.reverse().reduce((below, top) => over(top, below), canvasColor);
  };
  const light = color => {
    const [r, g, b] = color.slice(0, 3).map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim(), element = walker.currentNode.parentElement;
    if (!text || ["STYLE", "SCRIPT", "TITLE", "DESC"].includes(element.tagName.toUpperCase())) continue;
    if (!element.checkVisibility({checkOpacity: true, checkVisibilityCSS: true})) continue;
    const style = getComputedStyle(element), drawn = element instanceof SVGElement;
    const scale = drawn ? Math.abs(element.getScreenCTM().d) : 1;
    const back = behind(element), front = over(parse(drawn ? style.fill : style.color), back);
    const [high, low] = [light(back), light(front)].sort((a, b) => b - a);
    let faint = 1;
    for (let at = element; at; at = at.parentElement) faint *= getComputedStyle(at).opacity;
    found.push({
      text: text.slice(0, 40), tag: element.tagName, size: parseFloat(style.fontSize) * scale,
      contrast: (high + 0.05) / (low + 0.05), faint,
    });
  }
  return found;
}"""
"""All texts that are seen: how large they are and how they stand out from what is behind them."""

STOPS = """() => {
  const stops = [...document.querySelectorAll("a[href], summary, button, input, select, textarea, [tabindex], iframe")]
    .filter(element => element.tabIndex >= 0 && !element.disabled);
  for (const element of document.querySelectorAll("body *")) {
    const style = getComputedStyle(element);
    const scrolls = ["auto", "scroll"].includes(style.overflowX) && element.scrollWidth > element.clientWidth
      || ["auto", "scroll"].includes(style.overflowY) && element.scrollHeight > element.clientHeight;
    if (scrolls && !stops.includes(element)) stops.push(element);
  }
  const shown = stops.filter(element => element.checkVisibility());
  shown.forEach((element, number) => element.dataset.stop = number);
  return shown.map(element => `${element.tagName} ${(element.ariaLabel || element.textContent).trim().slice(0, 40)}`);
}"""
"""What can be acted on, or scrolled, each marked by its number."""

FOCUSED = """() => {
  const element = document.activeElement, style = getComputedStyle(element);
  if (element === document.body || element === document.documentElement) return null;
  const ring = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
  return {stop: element.dataset.stop ?? null, ring};
}"""

WIDE = """() => {
  const room = document.documentElement.clientWidth, all = document.documentElement.scrollWidth;
  if (all <= room) return null;
  const widest = [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > room + 1);
  return `${all} pixels of ${room}: ${widest.slice(0, 3).map(e => `${e.tagName}.${e.getAttribute("class")}`)}`;
}"""

CHARTS_END = """() => {
  const right = Math.max(...[...document.querySelectorAll("svg.chart, svg.histogram")].filter(e => e.checkVisibility())
    .map(e => e.getBoundingClientRect().right));
  return right / document.querySelector("main").getBoundingClientRect().right;
}"""
"""How much of the page's width its charts take, from 0 to 1."""

PICTURES = """async () => {
  const images = [...document.images];
  await Promise.all(images.map(image => image.decode().catch(() => null)));
  return images.map(image => ({loaded: image.complete && image.naturalWidth > 0, about: image.alt}));
}"""


def find_chromium() -> str | None:
    """Give the path of the system's Chromium, if it has one."""
    return next((found for found in map(shutil.which, NAMES) if found), None)


@contextlib.contextmanager
def open_browser() -> "Iterator[Browser]":
    """Start a headless Chromium.

    Raises:
        ImportError: Playwright is not installed.
        FileNotFoundError: There is no Chromium.
    """
    from playwright.sync_api import sync_playwright

    executable = find_chromium()
    if executable is None:
        msg = f"none of {', '.join(NAMES)} is on the path"
        raise FileNotFoundError(msg)
    with sync_playwright() as playwright:
        # Containers let no one but root start it, and have a small /dev/shm.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=executable, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


def photograph(page: "Page", top: float, width: int, height: float) -> Image.Image:
    """Photograph a part of an open page, and nothing beside it: Chromium may fail on the whole of a long one.

    Args:
        page: The page.
        top: Pixels above the part.
        width: Of the part.
        height: Of the part.
    """
    from playwright.sync_api import Error

    clip: FloatRect = {"x": 0, "y": top, "width": width, "height": height}
    for is_last in (False, False, True):
        try:
            return Image.open(io.BytesIO(page.screenshot(clip=clip, full_page=True))).convert("RGB")
        except Error as error:
            # Chromium's compositor starts anew now and then on a busy machine.
            if is_last or "Unable to capture screenshot" not in str(error):
                raise
    raise AssertionError


def measure_charts(browser: "Browser", path: Path, width: int) -> float:
    """Say how far to the right a page's charts reach, as a share of the page's width in pixels."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    try:
        page.goto(path.as_uri(), timeout=LONGEST_WAIT_MS)
        return float(page.evaluate(CHARTS_END))
    finally:
        page.close()


def find_faults(browser: "Browser", path: Path, pictures: int | None = None) -> list[str]:
    """Open a page at all widths and in both schemes, and list what is wrong with it.

    Looked for are pictures that do not load or say nothing of themselves, complaints in the console, requests,
    horizontal scrolling, small text, low contrast, and what the Tab key does not reach or does not show. What is folded
    is opened.

    Args:
        browser: What opens it.
        path: The page's file.
        pictures: How many pictures it has to have; None if any number will do.
    """
    faults: list[str] = []
    for scheme in SCHEMES:
        for width in WIDTHS:
            where = f"{width} pixels wide, {scheme}"
            with open_page(browser, path, width, scheme, faults) as page:
                found = _look(page)
                if scheme == SCHEMES[0]:
                    found += _tab_through(page)
                shown = page.evaluate(PICTURES)
            found += [f"a picture does not load: {image['about']!r}" for image in shown if not image["loaded"]]
            found += ["a picture says nothing of itself" for image in shown if not image["about"]]
            if pictures is not None and len(shown) != pictures:
                found.append(f"{len(shown)} pictures, not {pictures}")
            faults += [f"{where}: {fault}" for fault in found]
    return list(dict.fromkeys(faults))


@contextlib.contextmanager
def open_page(
    browser: "Browser", path: Path, width: int, scheme: Literal["light", "dark"], faults: list[str] | None = None
) -> "Iterator[Page]":
    """Open a page without a network, and note what it asks for or complains of."""
    noted = [] if faults is None else faults
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page = context.new_page()
    address = path.resolve().as_uri()
    page.on("console", lambda said: noted.append(f"the console says: {said.text}"))
    page.on("pageerror", lambda error: noted.append(f"an error: {error}"))

    def note(request: Any) -> None:
        if request.url != address and not request.url.startswith("data:"):
            noted.append(f"a request: {request.url[:200]}")

    page.on("request", note)
    page.goto(address, timeout=LONGEST_WAIT_MS)
    try:
        yield page
    finally:
        context.close()


def _look(page: "Page") -> list[str]:
    """Open what is folded, and look at widths and texts before and after."""
    faults = [f"scrolls horizontally, {found}" for found in [page.evaluate(WIDE)] if found]
    page.evaluate("() => document.querySelectorAll('details').forEach(details => details.open = true)")
    faults += [f"scrolls horizontally when all is unfolded, {found}" for found in [page.evaluate(WIDE)] if found]
    texts = page.evaluate(TEXTS)
    if not texts:
        faults.append("no text is seen")
    for text in texts:
        if text["size"] < SMALLEST_TEXT - 0.01:
            faults.append(f"{text['tag']} {text['text']!r} is {text['size']:.1f} pixels high")
        if text["contrast"] < LEAST_CONTRAST or text["faint"] < 1:
            faults.append(f"{text['tag']} {text['text']!r} has a contrast of {text['contrast']:.2f} only")
    if not page.title():
        faults.append("it has no title")
    if not page.evaluate("() => document.documentElement.lang"):
        faults.append("it says no language")
    return faults


def _tab_through(page: "Page") -> list[str]:
    """Press Tab until all was reached once; all has to be, and to show it."""
    names: list[str] = page.evaluate(STOPS)
    faults = [f"{name.strip()} has no name" for name in names if len(name.split()) == 1]
    reached: set[str] = set()
    page.evaluate("() => { document.activeElement.blur(); window.getSelection().removeAllRanges(); }")
    for _ in range(min(MOST_STOPS, len(names) + 2)):
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUSED)
        if focused is None:
            break
        if not focused["ring"]:
            faults.append(f"{names[int(focused['stop'])] if focused['stop'] else 'something'} does not show its focus")
        if focused["stop"] is not None:
            reached.add(focused["stop"])
    return faults + [f"Tab does not reach {name}" for number, name in enumerate(names) if str(number) not in reached]
