"""Images with a text of the same name are rows with captions, and nothing of such a folder is left out in silence."""

from pathlib import Path

import pytest

from tests.training import picture
from vlora.cli.main import main
from vlora.data.opening import read_rows
from vlora.errors import RecipeError, SampleError
from vlora.recipe.parse import parse_recipe
from vlora.recipe.schema import DataSection


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder of twelve images with captions."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(12):
        picture(32, 32, number).save(photos / f"{number:02}.png")
        (photos / f"{number:02}.txt").write_text(f" A photo of {number} \u2014 schön.\n", encoding="utf-8")
    return photos


def test_rows_are_images_with_their_captions(folder: Path) -> None:
    """In the order of their names; a split is taken apart as that of a file."""
    rows, _ = read_rows(DataSection(path=str(folder)))
    part, _ = read_rows(DataSection(path=str(folder), split="train[2:4]"))

    assert len(rows) == 12
    assert rows[3].turns[-1].text == "A photo of 3 \u2014 schön."
    assert str(rows[3].images[0]) == str(folder / "03.png")
    assert [part[number].turns[-1].text for number in range(len(part))] == [
        rows[2].turns[-1].text,
        rows[3].turns[-1].text,
    ]


def test_what_is_missing_is_a_bad_row(folder: Path) -> None:
    """An image without a caption, and a text that is none."""
    (folder / "04.txt").unlink()
    (folder / "05.txt").write_bytes(b"\xff\xfe\xff")
    rows, _ = read_rows(DataSection(path=str(folder)))

    with pytest.raises(SampleError, match=r"row 4: cannot read 04\.txt, the caption of 04\.png: No such file"):
        rows[4]
    with pytest.raises(SampleError, match=r"row 5: cannot read 05\.txt, the caption of 05\.png: it is no UTF-8"):
        rows[5]


def test_endings_in_capitals_and_hidden_folders(folder: Path) -> None:
    """A text is found however its ending is written; what programs keep in hidden folders is no data."""
    (folder / "04.txt").rename(folder / "04.TXT")
    (folder / "05.png").rename(folder / "05.PNG")
    (folder / ".ipynb_checkpoints").mkdir()
    picture(32, 32, 1).save(folder / ".ipynb_checkpoints" / "04-checkpoint.png")
    rows, _ = read_rows(DataSection(path=str(folder)))

    assert len(rows) == 12
    assert [rows[number].turns[-1].text for number in (4, 5)] == [
        "A photo of 4 \u2014 schön.",
        "A photo of 5 \u2014 schön.",
    ]


def test_what_is_ambiguous_is_refused(folder: Path) -> None:
    """Two images of one name, further images within, another split: a sentence says what to do."""
    with pytest.raises(RecipeError, match="which has the split train"):
        read_rows(DataSection(path=str(folder), split="test"))
    picture(32, 32, 1).save(folder / "04.jpg")
    with pytest.raises(RecipeError, match=r"04\.jpg and 04\.png have one caption, 04\.txt; rename one"):
        read_rows(DataSection(path=str(folder)))
    (folder / "04.jpg").rename(folder / "more.jpg")
    (folder / "within").mkdir()
    (folder / "more.jpg").rename(folder / "within" / "more.jpg")
    with pytest.raises(RecipeError, match=r"images with captions lie beside 'within/more\.jpg'"):
        read_rows(DataSection(path=str(folder)))


def test_init_writes_a_recipe_that_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The captions are answers to a question that init writes."""
    monkeypatch.chdir(folder.parent)
    assert main(["init", "photos", "my.toml", "--model", "builtin:tiny-qwen3-vl"]) == 0
    assert "Describe this image." in str(parse_recipe(Path("my.toml").read_text()).data.custom_prompt_format)
    assert main(["my.toml", "--set", "train.iters=2", "--quiet"]) == 0
