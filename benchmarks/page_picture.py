"""Photograph the page that `inspect --html` writes, as the picture in the README.

    python -m benchmarks.page_picture benchmarks/inspect.png

draws rows, writes their page in a temporary folder, and opens it in the system's Chromium (package `playwright`).
"""

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from tests.report.browser import open_browser, open_page, photograph
from vlora.cli.main import main

WIDTH = 1180
PARTS = (("body", "#counts", 0), ("#lengths", None, 500), ("#rows", None, 620))
"""Parts of the page, one below the other: where each begins, and where it ends or how many pixels it has."""
COLOURS = 64
"""Of the picture, which is mostly paper and letters."""
MARGIN = 24
"""Pixels above a heading."""
PLACE = "selector => Math.round(document.querySelector(selector).getBoundingClientRect().top + window.scrollY)"
SHAPES = ("circle", "square", "triangle")
PAINTS = {"red": "#c8312b", "blue": "#2457a7", "green": "#2f8f46", "yellow": "#e3b21c"}
SIZES = (160, 224, 320, 448)

RECIPE = """
[model]
path = "builtin:tiny-qwen3-vl"
[data]
path = "shapes.jsonl"
valid_fraction = 0.1
train_on_completions = true
max_seq_length = 256
on_bad_row = "skip"
"""


def draw(shape: str, paint: str, size: int, seed: int) -> Image.Image:
    """Draw a shape of a colour on paper."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    image = Image.new("RGB", (size, round(size * rng.choice((0.75, 1.0, 1.25)))), rng.choice(("#f4efe6", "#e6eef4")))
    side = round(min(image.size) * rng.uniform(0.35, 0.7))
    left, top = (rng.randint(0, length - side) for length in image.size)
    box = (left, top, left + side, top + side)
    pen = ImageDraw.Draw(image)
    if shape == "circle":
        pen.ellipse(box, fill=PAINTS[paint])
    elif shape == "square":
        pen.rectangle(box, fill=PAINTS[paint])
    else:
        pen.polygon([(left, top + side), (left + side, top + side), (left + side / 2, top)], fill=PAINTS[paint])
    return image


def make_rows(folder: Path) -> list[dict[str, Any]]:
    """Draw the images, and give the rows: some are twice there, one has no image, and one is too long."""
    rng, rows = random.Random(7), []  # noqa: S311 - no secret
    for number in range(240):
        shape, paint = rng.choice(SHAPES), rng.choice(tuple(PAINTS))
        draw(shape, paint, rng.choice(SIZES), number).save(folder / f"{number}.png")
        question = rng.choice(("Which shape is it?", "What do you see, in one word?", "Name the shape, please."))
        rows.append({"image": f"{number}.png", "question": question, "answer": shape})
    rows += [
        dict(rows[3]),
        dict(rows[20]),
        {"image": "missing.png", "question": "Which shape is it?", "answer": "circle"},
    ]
    steps = " ".join(f"Step {step}: the sides are counted once more." for step in range(1, 12))
    rows.append({"image": "5.png", "question": "Think aloud. Which shape is it?", "answer": f"{steps} It is a square."})
    return rows


def take(file: Path) -> None:
    """Write the page of these rows, and photograph its top and its longest row."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "shapes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in make_rows(folder)))
        recipe = RECIPE.replace("shapes.jsonl", str(folder / "shapes.jsonl")) + f'[output]\npath = "{folder / "out"}"\n'
        (folder / "shapes.toml").write_text(recipe)
        page = folder / "page.html"
        main(["inspect", str(folder / "shapes.toml"), "--html", str(page), "--longest", "6"])
        text = page.read_text(encoding="utf-8").replace(f"{folder}/", "")
        page.write_text(text, encoding="utf-8")
        with open_browser() as browser, open_page(browser, page, WIDTH, "light") as opened:
            crops = []
            for begins, ends, height in PARTS:
                top = opened.evaluate(PLACE, begins) - MARGIN * (begins != "body")
                bottom = opened.evaluate(PLACE, ends) - MARGIN if ends else top + height
                crops.append(photograph(opened, top, WIDTH, bottom - top))
    picture = Image.new("RGB", (WIDTH, sum(crop.height for crop in crops)), "white")
    top = 0
    for crop in crops:
        picture.paste(crop, (0, top))
        top += crop.height
    picture.quantize(COLOURS).save(file, optimize=True)


if __name__ == "__main__":
    take(Path(sys.argv[1]))
