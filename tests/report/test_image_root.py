"""Folders near a file of rows in which their images lie."""

import json
from pathlib import Path

import pytest

from tests.training import picture
from vlora.cli.main import main
from vlora.data.opening import read_rows
from vlora.recipe.parse import parse_recipe
from vlora.recipe.schema import DataSection
from vlora.report.image_root import MOST_FOLDERS, find_image_root

N = 4


def write(folder: Path, file: str, images: str, named: str = "") -> Path:
    """Write a file of rows, and their images into another folder."""
    (folder / images).mkdir(parents=True)
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in range(N):
        picture(24, 24, number).save(folder / images / f"{number}.png")
    turns = [{"from": "human", "value": "<image>\nWhich?"}, {"from": "gpt", "value": "this"}]
    rows = [{"image": f"{named}{number}.png", "conversations": turns} for number in range(N)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def find(path: Path | str) -> str | None:
    """Find the folder."""
    return find_image_root(str(path), read_rows(DataSection(path=str(path)))[0], N)


@pytest.mark.parametrize(
    ("file", "images", "named", "found"),
    [
        ("rows.jsonl", "images", "", "images"),
        ("rows.jsonl", "coco/train2017", "", "coco/train2017"),
        ("rows.jsonl", "playground/coco/train2017", "coco/train2017/", "playground"),
        ("annotations/rows.jsonl", "images", "", "images"),
        ("annotations/rows.jsonl", "images/train", "images/train/", "."),
    ],
)
def test_images_below_or_beside(file: str, images: str, named: str, found: str, tmp_path: Path) -> None:
    """As LLaVA's and COCO's files have them."""
    # The folder above is looked through as well: that of all tests has images of others.
    folder = tmp_path / "own" / "data"
    assert Path(find(write(folder, file, images, named)) or "") == folder / found


def test_nothing_is_found(tmp_path: Path) -> None:
    """Where images are where they should be, where most are nowhere, or there, and among many folders."""
    assert find(write(tmp_path / "a", "rows.jsonl", ".")) is None
    path = write(tmp_path / "b" / "b", "rows.jsonl", "images")
    for number in range(N // 2):
        (tmp_path / "b" / "b" / "images" / f"{number}.png").unlink()
    assert find(path) is None
    path = write(tmp_path / "d" / "d", "rows.jsonl", ".")
    write(tmp_path / "d" / "d" / "others", "rows.jsonl", ".")
    (path.parent / "3.png").unlink()
    assert find(path) is None
    path = write(tmp_path / "c" / "c", "rows.jsonl", "z/images")
    for number in range(MOST_FOLDERS):
        (tmp_path / "c" / "c" / f"f{number}").mkdir()
    assert find(path) is None


def test_the_recipe_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a path that is relative as that of the rows is, and says so."""
    write(tmp_path, "data/annotations/rows.jsonl", "data/images")
    monkeypatch.chdir(tmp_path)

    assert main(["init", "data/annotations/rows.jsonl", "my.toml", "--model", "builtin:tiny-qwen3-vl"]) == 0
    printed = capsys.readouterr().out
    assert "the images are in data/images (data.image_root)" in printed
    assert "cannot be learned from" not in printed
    recipe = parse_recipe((tmp_path / "my.toml").read_text())
    assert recipe.data.image_root == "data/images"
    assert read_rows(recipe.data)[0][0].images == (str(Path("data/images/0.png")),)
