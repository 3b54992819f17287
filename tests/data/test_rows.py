"""Rows from every kind of data set, written by this test and read from another working directory."""

import csv
import io
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlora import models
from vlora.data.format.samples import Reading
from vlora.data.opening import read_rows
from vlora.data.rows import RowDataset
from vlora.errors import RecipeError, SampleError
from vlora.recipe.schema import DataSection

Encoding = Callable[..., models.Encoder]
N_ROWS = 4


def picture(number: int) -> Image.Image:
    """Draw a picture that tells its number: its width."""
    return Image.new("RGB", (32 + number, 32), (number * 40, 0, 0))


def picture_bytes(number: int) -> bytes:
    stream = io.BytesIO()
    picture(number).save(stream, format="PNG")
    return stream.getvalue()


def question_rows(image: Callable[[int], Any]) -> list[dict[str, Any]]:
    return [
        {"image": image(number), "question": f"What is {number}?", "answer": str(number)} for number in range(N_ROWS)
    ]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_pictures(folder: Path) -> None:
    folder.mkdir()
    for number in range(N_ROWS):
        picture(number).save(folder / f"{number}.png")


def make_dataset() -> datasets.Dataset:
    features = datasets.Features(
        {"image": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.Value("string")}
    )
    rows = question_rows(lambda number: {"bytes": picture_bytes(number), "path": None})
    return datasets.Dataset.from_list(rows, features=features)


def write_source(kind: str, folder: Path) -> Path:
    """Write the same rows as another kind of data set; returns what `data.path` has to be."""
    beside = question_rows(lambda number: f"pictures/{number}.png")
    if kind in ("jsonl", "json", "csv"):
        write_pictures(folder / "pictures")
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        write_jsonl(path, beside)
    elif kind == "json":
        path.write_text(json.dumps(beside))
    elif kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, beside[0])
            writer.writeheader()
            writer.writerows(beside)
    elif kind == "parquet":
        make_dataset().to_parquet(path)
    elif kind == "saved":
        make_dataset().save_to_disk(path)
    elif kind == "saved-dict":
        datasets.DatasetDict({"train": make_dataset(), "test": make_dataset().select([1])}).save_to_disk(path)
    elif kind == "imagefolder":
        write_pictures(path)
        metadata = [{"file_name": f"{number}.png"} | row for number, row in enumerate(beside)]
        write_jsonl(path / "metadata.jsonl", [{k: v for k, v in row.items() if k != "image"} for row in metadata])
    elif kind == "folder-of-parquet":
        path.mkdir()
        make_dataset().to_parquet(path / "train-00000-of-00001.parquet")
        make_dataset().select([1, 2]).to_parquet(path / "test-00000-of-00001.parquet")
    return path


KINDS = ("jsonl", "json", "csv", "parquet", "saved", "saved-dict", "imagefolder", "folder-of-parquet")


def read(path: Path | str, **data: Any) -> RowDataset:
    rows, valid = read_rows(DataSection(path=str(path), **data))

    assert valid is None
    return rows


def describe(rows: RowDataset) -> list[tuple[str, str, list[int]]]:
    """List each row's question, answer and picture numbers."""
    found = []
    for index in range(len(rows)):
        sample = rows[index]
        numbers = [models.open_image(image, sample.source, None).size[0] - 32 for image in sample.images]
        found.append((sample.turns[0].text, sample.turns[1].text, numbers))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_rows(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All kinds of data sets give the same conversations, in order, with their images, from any working directory."""
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    path = write_source(kind, tmp_path / "data")
    monkeypatch.chdir(tmp_path / "elsewhere")

    rows = read(path)

    assert describe(rows) == [(f"What is {number}?", str(number), [number]) for number in range(N_ROWS)]
    assert rows[2].source == f"{rows.name} row 2"
    assert path.name in rows.name


def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative data path is taken from the working directory, its images from the file's folder."""
    (tmp_path / "data").mkdir()
    write_source("jsonl", tmp_path / "data")
    monkeypatch.chdir(tmp_path)

    assert [numbers for _, _, numbers in describe(read("data/rows.jsonl"))] == [[0], [1], [2], [3]]


def test_image_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are taken from the file's folder first, then from the working directory; absolute ones are as they are."""
    folder, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    picture(0).save(folder / "both.png")
    picture(1).save("both.png")
    picture(2).save("here.png")
    picture(3).save(tmp_path / "absolute.png")
    names = ["both.png", "here.png", str(tmp_path / "absolute.png")]
    path = write_jsonl(folder / "rows.jsonl", [{"image": name, "question": "q", "answer": "a"} for name in names])

    assert [numbers for _, _, numbers in describe(read(path))] == [[0], [2], [3]]


def test_several_images_and_none(tmp_path: Path) -> None:
    """Rows with several images, one, and none stand together in one file."""
    write_pictures(tmp_path / "p")
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    images = [["p/0.png", "p/1.png"], [], ["p/2.png"], None]
    rows = [{"images": row, "messages": messages} for row in images]

    found = describe(read(write_jsonl(tmp_path / "rows.jsonl", rows)))

    assert [numbers for _, _, numbers in found] == [[0, 1], [], [2], []]


def test_images_inside_the_messages(tmp_path: Path) -> None:
    """Image paths inside the messages are taken from the file's folder too, None-filled parts and all."""
    write_pictures(tmp_path / "p")
    content = [{"type": "image", "image": "p/3.png"}, {"type": "text", "text": "What?"}]
    messages = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": "3"}]},
    ]
    (found,) = describe(read(write_jsonl(tmp_path / "rows.jsonl", [{"messages": messages}])))

    assert found == ("What?", "3", [3])


def test_list_of_images_in_parquet(tmp_path: Path) -> None:
    """Parquet with a list of images per row, as TRL writes it, gives each row its images."""
    features = datasets.Features(
        {
            "images": datasets.List(datasets.Image()),
            "messages": datasets.List({"role": datasets.Value("string"), "content": datasets.Value("string")}),
        }
    )
    messages = [{"role": "user", "content": "<image>q<image>"}, {"role": "assistant", "content": "a"}]
    images = [{"bytes": picture_bytes(number), "path": None} for number in (2, 1)]
    table = datasets.Dataset.from_list([{"images": images, "messages": messages}], features=features)
    table.to_parquet(tmp_path / "rows.parquet")

    assert describe(read(tmp_path / "rows.parquet")) == [("q", "a", [2, 1])]


def test_folder_of_images(tmp_path: Path) -> None:
    """Relative paths begin in data.image_root, if the recipe names it; it has to be there."""
    pictures, rows = tmp_path / "pictures", tmp_path / "rows"
    for folder in (pictures / "deep", rows):
        folder.mkdir(parents=True)
    (pictures / "deep" / "a b.png").write_bytes(b"x")
    path = rows / "rows.jsonl"
    address = f"file://{pictures}/deep/a%20b.png"
    write_jsonl(path, [{"question": "?", "answer": "x", "image": name} for name in ("deep/a b.png", address)])

    subject = read(path, image_root=str(pictures))
    found = [subject[index].images for index in range(len(subject))]

    assert found == [(str(pictures / "deep" / "a b.png"),)] * 2
    with pytest.raises(RecipeError, match=r"^data.image_root: there is no folder .*; did you mean .*pictures"):
        read(path, image_root=str(tmp_path / "picture"))


def test_columns_of_a_recipe(tmp_path: Path) -> None:
    """A recipe maps columns and gives a system prompt; what became of columns is told of the rows that were read."""
    row = {"ask": "?", "reply": "x", "notes": "n"}
    table = [row, {**row, "pic": "a.png", "id": "3"}, {**row, "more": "m"}]
    reading = Reading(columns={"ask": "question", "reply": "answer", "pic": "images"}, system="Be brief.")
    rows = RowDataset(name="rows", table=table, indices=range(3), folder=tmp_path, reading=reading)

    assert [turn.text for turn in rows[0].turns] == ["Be brief.", "?", "x"]
    assert rows.describe_columns().endswith("not used: notes; of data.columns in no row so far: pic")
    assert rows[1].images == (str(tmp_path / "a.png"),)
    assert rows.describe_columns() == (
        "ask (as question: the question), reply (as answer: the answer), pic (as images); not used: id, notes"
    )


def test_columns_that_a_table_lacks(tmp_path: Path) -> None:
    """Where a data set declares its columns, a mapping of another one is a mistake of the recipe."""
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_list([{"question": "?", "reply": "x"}]).to_parquet(path)

    with pytest.raises(RecipeError, match=r"^data.columns.replay: .* has no such column; did you mean 'reply'\?$"):
        read_rows(DataSection(path=str(path), columns={"replay": "answer"}))


def test_custom_prompt_format(tmp_path: Path) -> None:
    """A recipe's prompt format reads columns of other names."""
    rows = [{"caption": "A cat.", "topic": "cats"}]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    prompt = json.dumps({"user": "Say something about {topic}.", "assistant": "{caption}"})

    assert describe(read(path, custom_prompt_format=prompt)) == [("Say something about cats.", "A cat.", [])]


@pytest.mark.parametrize(("config", "answers"), [(None, "0123456789"), ("digit", "0123456789"), ("name", None)])
def test_digits(config: str | None, answers: str | None) -> None:
    """The built-in digits are real pictures with their figures or words; train and test share none."""
    train = read("builtin:digits", config=config)
    test = read("builtin:digits", config=config, split="test")

    assert (len(train), len(test)) == (1497, 300)
    sample = test[0]
    assert models.open_image(sample.images[0], sample.source, None).size == (32, 32)
    found = {test[index].turns[1].text for index in range(len(test))}
    assert found == set(answers or ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
    drawn = [
        {np.array(row["image"]).tobytes() for row in map(rows.table.__getitem__, range(len(rows.table)))}
        for rows in (train, test)
    ]
    assert not drawn[0] & drawn[1]


@given(st.integers(2, 60), st.floats(0.01, 0.9), st.integers(0, 2**32))
def test_valid_fraction(n_rows: int, fraction: float, seed: int) -> None:
    """A share of the rows is held out: no row twice, none lost, the same for the same seed."""
    table = [{"question": str(number), "answer": "a"} for number in range(n_rows)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlora.data.opening.load_digit_rows", lambda *_: table)
        section = DataSection(path="builtin:digits", valid_fraction=fraction)
        try:
            train, valid = read_rows(section, seed=seed)
        except RecipeError as error:
            assert "data.valid_fraction" in str(error)  # noqa: PT017
            assert round(n_rows * fraction) >= n_rows
            return
        again, valid_again = read_rows(section, seed=seed)
    assert valid is not None
    assert valid_again is not None
    numbers, held_out = list(train.indices), list(valid.indices)

    assert sorted(numbers + held_out) == list(range(n_rows))
    assert numbers == sorted(numbers)
    assert len(held_out) == max(1, round(n_rows * fraction))
    assert (numbers, held_out) == (list(again.indices), list(valid_again.indices))
    assert train[0].source.endswith(f"row {numbers[0]}")
    assert valid[0].turns[0].text == str(held_out[0])


@pytest.mark.parametrize("kind", ["saved-dict", "folder-of-parquet"])
def test_valid_split(kind: str, tmp_path: Path) -> None:
    """Another split of the same data set is for validation."""
    train, valid = read_rows(DataSection(path=str(write_source(kind, tmp_path)), valid_split="test"))

    assert len(train) == N_ROWS
    assert valid is not None
    assert valid[0].turns[0].text == "What is 1?"
    assert len(valid) < N_ROWS


def test_splits_of_one_file(tmp_path: Path) -> None:
    """A JSON document with a list for each split has them, and their sums and slices."""
    path = tmp_path / "rows.json"
    lists = {name: [{"question": name, "answer": str(number)} for number in range(3)] for name in ("train", "dev")}
    path.write_text(json.dumps(lists))

    train, valid = read_rows(DataSection(path=str(path), split="train[1:]+dev", valid_split="dev"))

    assert [train[index].turns[0].text for index in range(len(train))] == ["train"] * 2 + ["dev"] * 3
    assert valid is not None
    assert {valid[index].turns[0].text for index in range(len(valid))} == {"dev"}
    assert "train, dev" in problem_of(path, split="test")


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved"])
def test_valid_split_of_one_split(kind: str, tmp_path: Path) -> None:
    """A source with a single split has no other to validate on; the training rows are not taken for one."""
    path = write_source(kind, tmp_path)

    with pytest.raises(RecipeError, match=r"data.valid_split: .*data.valid_fraction"):
        read_rows(DataSection(path=str(path), valid_split="test"))


def test_valid_path(tmp_path: Path) -> None:
    """Another file is for validation."""
    path = write_source("jsonl", tmp_path)
    other = write_jsonl(tmp_path / "valid.jsonl", [{"question": "Other?", "answer": "a"}])

    train, valid = read_rows(DataSection(path=str(path), valid_path=str(other)))

    assert len(train) == N_ROWS
    assert valid is not None
    assert describe(valid) == [("Other?", "a", [])]


def problem_of(path: Path | str, **data: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        read_rows(DataSection(path=str(path), **data))
    return str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is reported under its key, with its path."""
    problem = problem_of(tmp_path / "rows.jsonl")

    assert problem.startswith("data.path: ")
    assert str(tmp_path / "rows.jsonl") in problem
    assert "no such file" in problem


def test_misspelt_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or folder whose name is nearly right is offered, with a relative path too."""
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "q", "answer": "a"}])
    (tmp_path / "pictures").mkdir()
    monkeypatch.chdir(tmp_path)

    assert problem_of(tmp_path / "rowz.jsonl").endswith(f"did you mean {str(tmp_path / 'rows.jsonl')!r}?")
    assert problem_of("picture").endswith("did you mean 'pictures'?")
    assert problem_of(tmp_path / "rows.json").endswith(f"did you mean {str(tmp_path / 'rows.jsonl')!r}?")
    for other in ("nothing/like/it.jsonl", "other.jsonl"):
        assert "did you mean" not in problem_of(other)


def test_missing_hub_data_set() -> None:
    """A hub id that cannot be reached is reported under its key."""
    problem = problem_of("nobody/nothing-of-this-name")

    assert problem.startswith("data.path: ")
    assert "nobody/nothing-of-this-name" in problem


def test_missing_valid_path(tmp_path: Path) -> None:
    """A validation file that is not there is reported under its own key."""
    path = write_jsonl(tmp_path / "rows.jsonl", [{"question": "q", "answer": "a"}])

    assert problem_of(path, valid_path=str(tmp_path / "none.jsonl")).startswith("data.valid_path: ")


@pytest.mark.parametrize("kind", ["saved-dict", "folder-of-parquet"])
def test_unknown_split(kind: str, tmp_path: Path) -> None:
    """A split that is not there is reported with those that are."""
    path = write_source(kind, tmp_path)

    for word in ("data.path", "'dev'", "train", "test"):
        assert word in problem_of(path, split="dev")
    assert problem_of(path, valid_split="dev").startswith("data.valid_split: ")


def test_unknown_digits() -> None:
    """Splits and questions that the built-in digits lack are reported with those that they have."""
    assert "'train' and 'test'" in problem_of("builtin:digits", split="dev")
    assert "'digit', 'name'" in problem_of("builtin:digits", config="colour")


def test_unknown_suffix(tmp_path: Path) -> None:
    """A file of an unknown kind is reported with the known ones."""
    (tmp_path / "rows.xlsx").write_bytes(b"x")
    problem = problem_of(tmp_path / "rows.xlsx")

    assert "'.xlsx'" in problem
    assert ".jsonl" in problem


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("rows.jsonl", "", "has no rows"),
        ("rows.json", '[{"question": "q"', "line 1 of rows.json: the document ends before"),
        ("rows.csv", "question,answer,question\n", "two columns have the name 'question'"),
        ("rows.parquet", "no Parquet", "Parquet magic bytes not found"),
    ],
)
def test_broken_file(
    name: str,
    text: str,
    reason: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file that is empty or broken is reported with what is wrong in it, not raised by the library beneath."""
    path = tmp_path / name
    path.write_text(text)
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    problem = problem_of(path)

    assert not caplog.records
    assert str(path) in problem
    assert reason in problem


def test_what_is_neither_a_file_nor_a_folder(tmp_path: Path) -> None:
    """A pipe is not waited for, and a device not read."""
    os.mkfifo(tmp_path / "rows.jsonl")

    for path in (tmp_path / "rows.jsonl", "/dev/zero"):
        assert "it is neither a file nor a folder" in problem_of(path)


def test_broken_line(tmp_path: Path) -> None:
    """A line that is no row is one row's error, with the row's number and the line's."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "q", "answer": "a"}\n\n[1]\n{"question": "p", "answer": "b"}\n')
    rows = read(path)

    assert [rows[number].turns[1].text for number in (0, 3)] == ["a", "b"]
    with pytest.raises(SampleError, match=r"^rows\.jsonl train row 1: line 2 of rows\.jsonl: the line is blank"):
        rows[1]
    with pytest.raises(SampleError, match=r"^rows\.jsonl train row 2: line 3 of rows\.jsonl: found a list"):
        rows[2]


def test_empty_data_set(tmp_path: Path) -> None:
    """A data set without rows is reported."""
    datasets.Dataset.from_dict({"question": [], "answer": []}).save_to_disk(tmp_path / "saved")

    assert "has no rows" in problem_of(tmp_path / "saved")


def test_empty_folder(tmp_path: Path) -> None:
    """A folder without data is reported."""
    assert problem_of(tmp_path).startswith("data.path: ")


def test_missing_image(tmp_path: Path, encoder: Encoding) -> None:
    """An image that is not there is one row's error, when that row is encoded, with its number and path."""
    path = write_source("jsonl", tmp_path)
    (tmp_path / "pictures" / "2.png").unlink()
    encode, rows = encoder("qwen3_vl"), read(path)

    assert len(encode(rows[1]).tokens)
    with pytest.raises(SampleError, match=r"^rows.jsonl train row 2: cannot read the image .*pictures/2.png"):
        encode(rows[2])


def test_unreadable_image(tmp_path: Path, encoder: Encoding) -> None:
    """A file that is no image is one row's error, with its number and path."""
    path = write_source("jsonl", tmp_path)
    (tmp_path / "pictures" / "2.png").write_bytes(picture_bytes(2)[:60])
    (tmp_path / "pictures" / "3.png").write_text("no image")
    encode, rows = encoder("qwen3_vl"), read(path)

    for number in (2, 3):
        with pytest.raises(SampleError, match=rf"row {number}: cannot read the image .*pictures/{number}.png"):
            encode(rows[number])


def test_broken_image_in_parquet(tmp_path: Path, encoder: Encoding) -> None:
    """Broken bytes in a table are one row's error; the other rows are read."""
    rows = question_rows(lambda number: {"bytes": picture_bytes(number)[: 40 if number == 1 else None], "path": None})
    features = make_dataset().features
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    encode, found = encoder("qwen3_vl"), read(tmp_path / "rows.parquet")

    assert len(encode(found[0]).tokens)
    with pytest.raises(SampleError, match=r"row 1: cannot read the image"):
        encode(found[1])


def test_row_that_is_no_conversation(tmp_path: Path) -> None:
    """A row without a conversation is reported with the data set's name and its number."""
    path = write_jsonl(tmp_path / "rows.jsonl", [{"question": "q", "answer": "a"}, {"question": "q", "answer": None}])

    with pytest.raises(SampleError, match=r"^rows.jsonl train row 1: the column .answer. has no value"):
        read(path)[1]


def test_first_samples_are_read_on_demand(tmp_path: Path) -> None:
    """Rows without a conversation are left out, none is read before it is asked for, and no column counts as read."""
    rows = [{"note": "no conversation"}, *question_rows(lambda number: f"{number}.png")]
    train, _ = read_rows(DataSection(path=str(write_jsonl(tmp_path / "rows.jsonl", rows))))

    found = list(train.first_samples(3))

    assert [sample.turns[-1].text for sample in found] == ["0", "1"]
    assert "none were read" in train.describe_columns()
    assert len(list(train.first_samples())) == N_ROWS
