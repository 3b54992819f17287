"""Draw the upper part of a page, as the picture of a report in the README.

    python -m benchmarks.report_picture benchmarks/report.png runs/quickstart/model/report.html 1280 1200

opens the page in headless Chromium and writes what is in its upper left corner, of that width and height, as PNG.
"""

import sys
from pathlib import Path

from PIL import Image

N_COLOURS = 128
"""Of a picture: fewer bytes than with all."""


def draw(file: Path, page: Path, width: int, height: int) -> None:
    """Draw the upper part of a page.

    Args:
        file: Where the picture is written.
        page: The page.
        width: Pixels of the window.
        height: Pixels that are kept of the page.
    """
    from tests.report.browser import open_browser, open_page, photograph

    with open_browser() as browser, open_page(browser, page, width, "light") as opened:
        few = photograph(opened, 0, width, height).quantize(N_COLOURS, dither=Image.Dither.NONE)
    few.save(file, optimize=True)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
