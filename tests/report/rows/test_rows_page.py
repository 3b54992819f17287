"""The page of rows says what is worth knowing, holds hostile rows as text, and reads well in a browser."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.commands import exit_code
from tests.report.browser import find_faults, measure_charts, open_page
from vlora.recipe.parse import parse_recipe
from vlora.report.rows.rows_page import name_rows

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CheckpointFactory = Callable[[str], Path]

HOSTILE = (
    "<script>document.title = 'taken'</script><img src=x onerror=alert(1)>",
    "\u202egnp.exe\u202c null\x00 escape\x1b[31m",
    "עברית and العربية",
    "w" * 3_000,
    "It was long. " * 7_700,
)


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({"data.path": "rows.jsonl"}, "rows.jsonl"),
        ({"data.sources": [{"path": "a"}, {"path": "b"}]}, "a, b"),
        ({"data.sources": [{"path": name} for name in "abcde"]}, "a, b, c and 2 more"),
    ],
)
def test_a_page_names_its_rows(keys: dict[str, Any], name: str) -> None:
    """By the path of the recipe, or by those of its sources."""
    assert name_rows(parse_recipe("", keys)) == name


def photo(width: int, height: int, seed: int) -> Image.Image:
    """Draw a picture that compresses as badly as a photo does: noise of all sizes."""
    random = np.random.default_rng(seed)
    coarse, fine = (
        Image.fromarray(random.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize((width, height)) for n in (3, 40)
    )
    return Image.blend(coarse, fine, 0.4)


def write_rows(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    """Write rows."""
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def inspect(checkpoint: Path, rows: Path, *options: str) -> int:
    common = ["--model-path", str(checkpoint), "--dataset", str(rows), "--train-on-completions"]
    return exit_code(["inspect", *common, "--output-path", str(rows.parent / "out"), *options])


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    """Make rows with all that a page may have to show."""
    for number in range(6):
        photo(60 + 20 * number, 50, number).save(tmp_path / f"{number}.png")
    answers = ["cat", "cat", "cat", "dog", "cat", "dog"]
    found: list[dict[str, Any]] = [
        {"image": f"{number}.png", "question": "Which?", "answer": answer} for number, answer in enumerate(answers)
    ]
    found += [{"image": "1.png", "question": text, "answer": "dog"} for text in HOSTILE]
    found += [found[2], {"image": "nowhere.png", "question": "Which?", "answer": "cat"}]
    found += [{"images": ["1.png", "2.png"], "question": "Which?", "answer": "It is. " * 150}]
    return found


def test_a_page_of_everything(
    rows: list[dict[str, Any]],
    checkpoint: CheckpointFactory,
    tmp_path: Path,
    browser: "Browser",
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It has no fault in a browser, hostile texts are text, and it ends with what it found."""
    path = write_rows(tmp_path, "rows.jsonl", rows)
    valid = write_rows(tmp_path, "valid.jsonl", [rows[0], {**rows[3], "question": "And this?"}])
    page = tmp_path / "page.html"
    options = [
        "--set",
        f"data.valid_path={valid}",
        "--set",
        'data.on_bad_row="skip"',
        "--set",
        "data.max_seq_length=400",
    ]

    assert inspect(checkpoint("qwen3_vl"), path, "--html", str(page), *options) == 2
    printed = capsys.readouterr().out
    assert "1 row to validate on, equal to rows that are trained on: the validation loss is too low" in printed
    assert "cannot be learned from; training leaves such rows out" in printed
    assert "rows.jsonl train: 1 row equal to an earlier one" in printed
    assert printed.endswith(f"14 rows of 16 shown in {page}\n")
    assert not find_faults(browser, page)
    assert 0.95 < measure_charts(browser, page, 1280) <= 1
    with open_page(browser, page, 1280, "light") as shown:
        text = shown.inner_text("body")
        assert shown.title() == f"{path}, as the model sees it"
        assert not shown.query_selector_all("script, [onerror]")
        for expected in (
            HOSTILE[0],
            "⟨U+202E⟩gnp.exe⟨U+202C⟩ null⟨U+0000⟩ escape⟨U+001B⟩[31m",
            HOSTILE[2],
            "Shown are the pixels that the model receives.",
            "cut here by data.max_seq_length: 400 of",
            "It cannot be learned from: line ",
            "cannot read the image",
            "row 2, row 11",
            "limit 400",
        ):
            assert expected in text, expected
        assert shown.inner_text("#answers + p").startswith("The rows have 2 different short answers")


@pytest.mark.slow
def test_fifty_rows_stay_below_5_mb(checkpoint: CheckpointFactory, tmp_path: Path, browser: "Browser") -> None:
    """Of photos that are larger than what is shown, and long texts."""
    rows = []
    for number in range(50):
        photo(700, 640, number).save(tmp_path / f"{number}.jpg", quality=90)
        rows.append({"image": f"{number}.jpg", "question": "Well? " * 1_000, "answer": "Yes."})
    page, keys = tmp_path / "page.html", ["data.max_seq_length=32768"]
    sets = [f"--set={key}" for key in keys]

    assert (
        inspect(checkpoint("llava"), write_rows(tmp_path, "rows.jsonl", rows), f"--html={page}", "--rows=50", *sets)
        == 0
    )
    assert page.stat().st_size < 5_000_000
    with open_page(browser, page, 1280, "light") as shown:
        assert shown.locator("img").count() == 50


def test_the_worst_answers(
    rows: list[dict[str, Any]], checkpoint: CheckpointFactory, tmp_path: Path, browser: "Browser"
) -> None:
    """They stand beside the expected ones, the worst first."""
    path = write_rows(tmp_path, "rows.jsonl", rows[:4])
    lines = [
        {
            "row": f"rows.jsonl train row {row}",
            "expected": "cat",
            "answer": f"<i>{row}</i>",
            "scores": {"cer": row / 9},
            "step": 7,
        }
        for row in range(4)
    ]
    predictions, page = write_rows(tmp_path, "predictions.jsonl", lines), tmp_path / "page.html"

    assert inspect(checkpoint("qwen3_vl"), path, f"--html={page}", f"--worst={predictions}", "--rows=2") == 0
    with open_page(browser, page, 1280, "light") as shown:
        cards = shown.locator(".card")
        assert cards.count() == 2
        assert [cards.nth(n).locator("h3").inner_text() for n in (0, 1)] == [
            f"rows.jsonl train row {n}" for n in (3, 2)
        ]
        assert cards.nth(0).locator(".answers .passage").all_inner_texts() == ["cat", "<i>3</i>"]
        assert "cer 0.333 at step 7" in cards.nth(0).inner_text()


def test_a_page_of_nothing(checkpoint: CheckpointFactory, tmp_path: Path, browser: "Browser") -> None:
    """A data set of which no row can be learned from has a page that says so."""
    path = write_rows(tmp_path, "rows.jsonl", [{"image": "nowhere.png", "question": "Which?", "answer": "cat"}])
    page = tmp_path / "page.html"

    assert inspect(checkpoint("qwen3_vl"), path, f"--html={page}") == 2
    assert not find_faults(browser, page, pictures=0)
    assert "No row can be learned from." in page.read_text(encoding="utf-8")
