"""Folders of images: of classes, with metadata, and those of which an image would be left out."""

import json
from pathlib import Path

import pytest

from tests.data.data_sets import picture, problem_of, read, write_jsonl
from tests.data.readers.folders import answers_of, write_csv
from vlora import models
from vlora.cli.sentences import describe_columns
from vlora.errors import RecipeError, SampleError

LABEL = json.dumps({"user": ["{image}", "What is it?"], "assistant": "{label}"})


def write_classes(folder: Path, names: dict[str, int]) -> Path:
    for name, number in names.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
    return folder


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["heron/a.png", "wren/b.png", "wren/c.PNG"], ["heron", "wren", "wren"]),
        (["train/heron/a.png", "train/wren/b.png", "test/wren/c.png"], ["heron", "wren"]),
        (["birds/heron/a.png", "birds/wren/b.png"], ["heron", "wren"]),
        (["birds/heron/a.png", "insects/bee/b.png"], ["heron", "bee"]),
    ],
)
def test_a_folder_for_every_class(names: list[str], labels: list[str], tmp_path: Path) -> None:
    """The folder that holds an image is its label, by name."""
    rows = read(
        write_classes(tmp_path, {name: number for number, name in enumerate(names)}), custom_prompt_format=LABEL
    )

    assert answers_of(rows) == labels
    assert rows.kinds == {"image": "image", "label": "label"}
    assert models.open_image(rows[1].images[0], "row", None).size == (33, 32)


def test_classes_of_other_splits(tmp_path: Path) -> None:
    """A split with a single class has it as a label all the same, and splits alone are no classes."""
    classes = write_classes(tmp_path / "a", {"train/heron/a.png": 0, "train/wren/b.png": 1, "test/wren/c.png": 2})
    assert answers_of(read(classes, split="test", custom_prompt_format=LABEL)) == ["wren"]

    plain = write_classes(tmp_path / "b", {"train/a.png": 0, "test/b.png": 1})
    rows = read(plain, custom_prompt_format=LABEL)
    assert rows.kinds == {"image": "image"}
    with pytest.raises(SampleError, match="'label', which has no value here; the row has image"):
        rows[0]

    # Of a split within its classes the folder's name would be learned as every image's class.
    within = write_classes(tmp_path / "c", {f"{name}/{split}/a.png": 0 for name in "ab" for split in ("train", "test")})
    assert read(within).kinds == {"image": "image"}


@pytest.mark.parametrize("name", ["wren/IMG_1.HEIC", "wren/b.avif"])
def test_images_that_make_no_rows_are_not_left_out(name: str, tmp_path: Path) -> None:
    """Photographs of a telephone among others are refused by name, unless metadata says which images are rows."""
    folder = write_classes(tmp_path, {"heron/a.png": 0, "wren/b.png": 1})
    (folder / name).write_bytes(b"")
    (folder / "wren" / "._b.avif").write_bytes(b"")
    (folder / "wren" / "notes.txt").write_text("Nothing.")
    with pytest.raises(RecipeError, match=rf"'{name}' would be left out, .* as JPEG or PNG, or name"):
        read(folder)

    write_jsonl(folder / "metadata.jsonl", [{"file_name": "wren/b.png", "question": "q", "answer": "a"}])
    assert answers_of(read(folder)) == ["a"]


def test_names_of_files_in_metadata(tmp_path: Path) -> None:
    """Several images, and images of other names, are found from the metadata's folder on."""
    write_classes(tmp_path, {"x/a.png": 1, "x/b.png": 2})
    row = {
        "file_names": ["a.png", "b.png"],
        "map_file_name": "b.png",
        "question": "q",
        "answer": {"file_name": "a.png"},
    }
    write_jsonl(tmp_path / "x" / "metadata.jsonl", [row])
    rows = read(tmp_path)

    assert rows.kinds == {"images": "image", "map": "image"}
    assert rows.table[0]["map"] == str(tmp_path / "x" / "b.png")
    assert [models.open_image(image, "row", None).size[0] for image in rows[0].images] == [33, 34]
    assert json.loads(rows[0].turns[1].text) == {"image": str(tmp_path / "x" / "a.png")}


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_images_that_no_metadata_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many images are in no row is said at the start, with one of them; rows not trained on have theirs."""
    write_classes(tmp_path, {f"p/{number}.png": number for number in range(5)})
    rows = [{"file_name": f"p/{number}.png", "question": "q", "answer": "a"} for number in (0, 3, 4)]
    write_jsonl(tmp_path / name, rows) if name.endswith("l") else write_csv(tmp_path / name, rows)
    said = "images that no row of the metadata names: 2, such as 'p/1.png'"
    for split in ("train", "train[:1]", "train[:1]+train[1:]"):
        assert describe_columns(read(tmp_path, split=split).columns()).endswith(f"; {said}")

    monkeypatch.setattr("vlora.data.readers.image_folders.MOST_NAMED", 2)
    assert "the folder has 5 images and its metadata 3 rows" in describe_columns(read(tmp_path).columns())
    for left in ("1", "2"):
        (tmp_path / "p" / f"{left}.png").unlink()
    assert "images" not in describe_columns(read(tmp_path).columns()).partition("not used")[0]
    monkeypatch.undo()
    assert "metadata" not in describe_columns(read(tmp_path).columns())


def test_names_of_files_that_collide(tmp_path: Path) -> None:
    """Of two columns that stand for the same one neither is dropped."""
    write_classes(tmp_path, {"a.png": 1})
    write_jsonl(tmp_path / "metadata.jsonl", [{"file_name": "a.png", "image": "b", "question": "q", "answer": "a"}])

    with pytest.raises(SampleError, match="'file_name' and another column both stand for 'image'"):
        read(tmp_path)[0]


def test_rows_beside_more_images(tmp_path: Path) -> None:
    """A folder of images whose rows are in a file has those rows; which of several kinds of files is not guessed."""
    write_classes(tmp_path, {f"images/{number}.png": number for number in range(3)})
    (tmp_path / "notes").mkdir()
    row = {"image": "images/2.png", "question": "q", "answer": "007"}
    write_jsonl(tmp_path / "notes" / "rows.jsonl", [row])
    rows = read(tmp_path)

    assert answers_of(rows) == ["007"]
    assert models.open_image(rows[0].images[0], "row", None).size == (34, 32)

    write_csv(tmp_path / "rows.csv", [row])
    assert "notes/rows.jsonl and rows.csv are of different kinds" in problem_of(tmp_path)


def test_metadata_beside_the_folders_of_splits(tmp_path: Path) -> None:
    """Metadata that belongs to no split is not left out in silence."""
    write_classes(tmp_path, {"train/a.png": 0, "test/a.png": 1})
    write_jsonl(tmp_path / "metadata.jsonl", [{"file_name": "train/a.png", "question": "q", "answer": "a"}])

    assert "its metadata does not lie in the folders of its splits (train, test)" in problem_of(tmp_path)
