"""Where rows come from: folders of files, of classes and with metadata, repositories, slices of splits."""

import csv
import gzip
import json
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest

from tests.data.test_rows import KINDS, N_ROWS, picture, problem_of, read, write_jsonl, write_source
from vlora import models
from vlora.data.opening import read_rows
from vlora.data.rows import RowDataset
from vlora.errors import RecipeError, SampleError
from vlora.recipe.schema import DataSection

AWKWARD = ["007", "12.50", "3", "true", "None", "NA", "null", "2024-03-05", "1" * 23, '["cat"]', '{"a": 1}', "é"]
LABEL = json.dumps({"user": ["{image}", "What is it?"], "assistant": "{label}"})


def answers_of(rows: RowDataset) -> list[str]:
    return [rows[index].turns[-1].text for index in range(len(rows))]


def awkward_rows() -> list[dict[str, str]]:
    return [{"question": "q", "answer": answer} for answer in AWKWARD]


def write_csv(path: Path, rows: list[dict[str, Any]], **settings: Any) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], **settings)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_text_source(kind: str, folder: Path) -> Path:
    """Write the awkward rows, two splits where the kind has them."""
    rows = awkward_rows()
    if kind == "metadata.jsonl":
        named = [{"file_name": f"p/{number}.png"} | row for number, row in enumerate(rows)]
        write_jsonl(folder / kind, named)
    elif kind == "metadata.csv":
        write_csv(folder / kind, [{"file_name": f"p/{number}.png"} | row for number, row in enumerate(rows)])
    elif kind == "folder of jsonl":
        write_jsonl(folder / "train-1.jsonl", rows[:5])
        write_jsonl(folder / "train-2.jsonl", rows[5:])
        write_jsonl(folder / "test.jsonl", rows[:1])
    elif kind == "folder of csv":
        write_csv(folder / "train.csv", rows, delimiter=";")
        write_csv(folder / "test.csv", rows[:1], delimiter=";")
    elif kind == "folder of gz":
        with gzip.open(folder / "train.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    elif kind == "folder of zip":
        with zipfile.ZipFile(folder / "train.zip", "w") as archive:
            archive.writestr("deep/train.csv", write_csv(folder.parent / "x.csv", rows).read_text())
    if kind.startswith("metadata"):
        (folder / "p").mkdir()
        for number in range(len(rows)):
            picture(number).save(folder / "p" / f"{number}.png")
    return folder


TEXT_KINDS = ("metadata.jsonl", "metadata.csv", "folder of jsonl", "folder of csv", "folder of gz", "folder of zip")


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_folders_of_text_are_read_as_written(kind: str, tmp_path: Path) -> None:
    """Wherever JSON and CSV lie, their values are those of the files."""
    (tmp_path / "data").mkdir()
    rows = read(write_text_source(kind, tmp_path / "data"))

    assert answers_of(rows) == AWKWARD
    if kind.startswith("metadata"):
        sizes = [models.open_image(rows[index].images[0], "row", None).size[0] for index in range(len(rows))]
        assert sizes == [32 + number for number in range(len(AWKWARD))]


@pytest.mark.parametrize("kind", ["folder of jsonl", "folder of csv", "metadata.csv"])
def test_repositories_are_read_as_folders_are(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository of the hub has the same readers; its images are only those that it has itself."""
    (tmp_path / "data").mkdir()
    folder = write_text_source(kind, tmp_path / "data")
    if kind.startswith("metadata"):
        builder = datasets.load_dataset_builder("imagefolder", data_dir=str(folder))
    else:
        builder = datasets.load_dataset_builder(str(folder))
    asked = []

    def build(path: str, config: str | None) -> Any:
        asked.append((path, config))
        return builder

    monkeypatch.setattr(datasets, "load_dataset_builder", build)
    rows = read("someone/rows", config="small")
    assert answers_of(rows) == AWKWARD
    assert rows.folder is None
    assert asked == [("someone/rows", "small")]

    if kind.startswith("metadata"):
        write_csv(folder / "metadata.csv", [{"file_name": "../../etc/passwd", "question": "q", "answer": "a"}])
        with pytest.raises(SampleError, match=r"no file '\.\./\.\./etc/passwd' beside metadata"):
            read("someone/rows")[0]


@pytest.mark.parametrize("has_tables", [False, True])
def test_repositories_without_a_connection(has_tables: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has been downloaded is read as written; tables with guessed types in the cache are not taken for it."""
    folder = write_text_source("folder of jsonl", tmp_path)
    if has_tables:
        cache = tmp_path / "cache"
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        made = cache / "someone___rows" / "default" / "0.0.0" / "abc"
        datasets.load_dataset_builder(str(folder), cache_dir=str(tmp_path / "other")).download_and_prepare(str(made))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert ("connect to the hub once more" if has_tables else "on the Hub") in problem_of("someone/rows")

    for commit in ("a", "b"):
        snapshot = tmp_path / "hub" / "datasets--someone--rows" / "snapshots" / commit
        snapshot.mkdir(parents=True)
        write_jsonl(snapshot / "train.jsonl", awkward_rows()[: None if commit == "b" else 1])
        os.utime(snapshot, (ord(commit), ord(commit)))
    assert answers_of(read("someone/rows")) == AWKWARD


def test_a_hub_that_is_not_to_be_reached(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """It is asked once, without the retries of its client, and nobody but vlora says so; the client stays as it was."""
    for place in (huggingface_hub.constants, datasets.config):
        monkeypatch.setattr(place, "HF_HUB_OFFLINE", False)
    # Nothing listens there.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it is asked again"))

    found = problem_of("someone/rows")

    assert "there is no such file or folder, and the hub is not to be reached (" in found
    assert not any(capfd.readouterr())
    assert (huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE) == (False, False)


def test_splits_of_folders(tmp_path: Path) -> None:
    """Each file belongs to its split; one that is not there is reported with those that are."""
    folder = write_text_source("folder of jsonl", tmp_path)

    assert answers_of(read(folder, split="test")) == AWKWARD[:1]
    assert "it has the splits train, test" in problem_of(folder, split="dev")


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
        assert read(tmp_path, split=split).describe_columns().endswith(f"; {said}")

    monkeypatch.setattr("vlora.data.readers.image_folders.MOST_NAMED", 2)
    assert "the folder has 5 images and its metadata 3 rows" in read(tmp_path).describe_columns()
    for left in ("1", "2"):
        (tmp_path / "p" / f"{left}.png").unlink()
    assert "images" not in read(tmp_path).describe_columns().partition("not used")[0]
    monkeypatch.undo()
    assert "metadata" not in read(tmp_path).describe_columns()


@pytest.mark.parametrize("kind", ["metadata.jsonl", "metadata.csv", "folder of csv", "folder of jsonl"])
def test_columns_that_are_mapped(kind: str, tmp_path: Path) -> None:
    """A name in data.columns is looked for where all rows have the same columns; elsewhere rows will tell."""
    folder = write_text_source(kind, tmp_path)
    names = {"answer": "question", "question": "answer"}
    rows = read(folder, columns=names)
    assert [rows[index].turns[0].text for index in range(len(rows))] == AWKWARD

    if "csv" in kind:
        assert "data.columns.anwser" in problem_of(folder, columns={"anwser": "answer"})
        assert "did you mean 'answer'?" in problem_of(folder, columns={"anwser": "answer"})
    else:
        assert answers_of(read(folder, columns={"anwser": "unused"})) == AWKWARD


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


def write_card(folder: Path, settings: str, labels: str = "") -> None:
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files: rows.csv\n{settings}{labels}---\n"
    )


def test_declared_labels_of_text_files(tmp_path: Path) -> None:
    """A repository may declare that a column of its CSV holds numbers of labels."""
    write_csv(tmp_path / "rows.csv", [{"question": "q", "answer": answer} for answer in ("1", "mild", "0")])
    names = "          '0': mild\n          '1': severe\n"
    labels = (
        "dataset_info:\n  features:\n  - name: question\n    dtype: string\n"
        f"  - name: answer\n    dtype:\n      class_label:\n        names:\n{names}"
    )
    write_card(tmp_path, "", labels)
    rows = read(tmp_path)

    assert answers_of(rows) == ["severe", "mild", "mild"]
    assert rows.kinds == {"question": "text", "answer": "label"}


@pytest.mark.parametrize("answer", ["fair", 0.5, [1], {"a": 1}, "1.0"])
def test_what_is_no_label(answer: Any, tmp_path: Path) -> None:
    """A value that is neither the name nor the number of a declared label is that row's error."""
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "q", "answer": value} for value in (1.0, answer)])
    dtype = "    dtype:\n      class_label:\n        names:\n          '0': mild\n          '1': severe\n"
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: rows.jsonl\n"
        f"dataset_info:\n  features:\n  - name: question\n    dtype: string\n  - name: answer\n{dtype}---\n"
    )
    rows = read(tmp_path)

    assert rows[0].turns[-1].text == "severe"
    with pytest.raises(SampleError, match=r"row 1: cannot read the values: found .* in the column 'answer', expected"):
        rows[1]


def test_settings_of_repositories(tmp_path: Path) -> None:
    """What a repository says of its files is obeyed, or refused by name."""
    write_csv(tmp_path / "rows.csv", awkward_rows(), delimiter="|")
    write_card(tmp_path, "  sep: '|'\n")
    assert answers_of(read(tmp_path)) == AWKWARD

    for setting in ("skiprows: 2", "encoding: latin-1", 'quotechar: "\'"', "sep: '||'"):
        write_card(tmp_path, f"  {setting}\n")
        problem = problem_of(tmp_path)
        assert problem.startswith("data.path: ")
        assert "its own settings say" in problem


@pytest.mark.parametrize("kind", [*KINDS, "builtin:digits"])
def test_slices_of_every_kind(kind: str, tmp_path: Path) -> None:
    """A slice has its rows and their numbers, whatever they come from."""
    path = kind if kind.startswith("builtin") else write_source(kind, tmp_path)
    whole, rows = read(path), read(path, split="train[1:3]")

    assert len(rows) == 2
    assert [rows[0].turns, rows[1].turns] == [whole[1].turns, whole[2].turns]
    assert rows[1].source == whole[2].source
    assert len(read(path, split="train[-50%:]")) == len(whole) // 2
    assert len(read(path, split=f"train[1:{len(whole) + 1}]")) == len(whole) - 1
    assert "has no rows" in problem_of(path, split="train[2:2]")
    assert "data.split: found 'train[2]'; a split is written as" in problem_of(path, split="train[2]")


def test_splits_that_are_joined(tmp_path: Path) -> None:
    """Splits joined by + follow one another."""
    rows = read(write_source("saved-dict", tmp_path), split="train[2:]+test+train[:1]")

    assert answers_of(rows) == ["2", "3", "1", "0"]
    with pytest.raises(RecipeError, match=r"data.split: found 'train\+test', .*single split"):
        read(write_source("jsonl", tmp_path), split="train+test")


def test_validation_on_a_slice(tmp_path: Path) -> None:
    """A single file can be trained on up to a row, and validated on from there."""
    path = write_source("jsonl", tmp_path)
    train, valid = read_rows(DataSection(path=str(path), split="train[:75%]", valid_split="train[75%:]"))
    assert valid is not None
    assert (answers_of(train), answers_of(valid)) == (["0", "1", "2"], ["3"])

    other = write_jsonl(tmp_path / "other.jsonl", awkward_rows())
    train, valid = read_rows(DataSection(path=str(path), split="train[:1]", valid_path=str(other)))
    assert valid is not None
    assert (len(train), len(valid)) == (1, len(AWKWARD))


def test_held_out_rows_of_a_slice(tmp_path: Path) -> None:
    """A share that is held out is one of the slice's rows."""
    path = write_jsonl(tmp_path / "rows.jsonl", awkward_rows())
    train, valid = read_rows(DataSection(path=str(path), split="train[4:]", valid_fraction=0.25))

    assert valid is not None
    assert sorted([*train.indices, *valid.indices]) == list(range(4, len(AWKWARD)))
    assert len(valid) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_no_package_is_asked_for(kind: str, tmp_path: Path) -> None:
    """Files of text need none of `datasets`' decoders, and are rows of text."""
    rows = read(write_source(kind, tmp_path))

    assert len(rows) == N_ROWS
    assert set(rows.kinds.values()) <= {"image", "text"}


def test_a_package_that_is_missing_is_an_error_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that cannot be imported is reported under the key of the data."""

    def fail(*_: Any, **__: Any) -> Any:
        msg = "please install h5py"
        raise ImportError(msg)

    monkeypatch.setattr(datasets, "load_dataset_builder", fail)

    assert problem_of(tmp_path).endswith("please install h5py")
