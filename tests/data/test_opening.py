"""Rows that recipes name: every kind of data set gives the same, some are held out, and slips are named."""

import json
import logging
import os
from pathlib import Path

import datasets
import pytest

from tests.data.data_sets import KINDS, N_ROWS, describe, problem_of, read, write_jsonl, write_source
from vlora.data.opening import read_rows
from vlora.errors import RecipeError
from vlora.recipe.schema import DataSection


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


def test_columns_that_a_table_lacks(tmp_path: Path) -> None:
    """Where a data set declares its columns, a mapping of another one is a mistake of the recipe."""
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_list([{"question": "?", "reply": "x"}]).to_parquet(path)

    with pytest.raises(RecipeError, match=r"^data.columns.replay: .* has no such column; did you mean 'reply'\?$"):
        read_rows(DataSection(path=str(path), columns={"replay": "answer"}))


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


def test_empty_data_set(tmp_path: Path) -> None:
    """A data set without rows is reported."""
    datasets.Dataset.from_dict({"question": [], "answer": []}).save_to_disk(tmp_path / "saved")

    assert "has no rows" in problem_of(tmp_path / "saved")


def test_empty_folder(tmp_path: Path) -> None:
    """A folder without data is reported."""
    assert problem_of(tmp_path).startswith("data.path: ")


def test_configurations_of_what_has_none_are_refused(tmp_path: Path) -> None:
    """A file has none, nor have several, a saved table and images with their metadata; a folder of files may."""
    (tmp_path / "rows.jsonl").write_text('{"question": "a", "answer": "b"}\n' * 2)
    datasets.Dataset.from_list([{"question": "a", "answer": "b"}]).save_to_disk(str(tmp_path / "saved"))
    for path in ("rows.jsonl", "*.jsonl", "saved"):
        with pytest.raises(RecipeError, match=r"^data\.config: found 'en' together with .* leave it out"):
            read_rows(DataSection(path=str(tmp_path / path), config="en"))
        assert len(read_rows(DataSection(path=str(tmp_path / path)))[0]) > 0
    with pytest.raises(RecipeError, match="'en' not found"):
        read_rows(DataSection(path=str(tmp_path), config="en"))
