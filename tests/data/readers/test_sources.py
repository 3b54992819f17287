"""Where rows come from: folders of files, of classes and with metadata, repositories, slices of splits."""

from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.data.data_sets import KINDS, N_ROWS, problem_of, read, write_jsonl, write_source
from tests.data.readers.folders import AWKWARD, answers_of, awkward_rows, write_card, write_csv, write_text_source
from vlora import models
from vlora.data.opening import read_rows
from vlora.errors import RecipeError, SampleError
from vlora.recipe.schema import DataSection

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


def test_splits_of_folders(tmp_path: Path) -> None:
    """Each file belongs to its split; one that is not there is reported with those that are."""
    folder = write_text_source("folder of jsonl", tmp_path)

    assert answers_of(read(folder, split="test")) == AWKWARD[:1]
    assert "it has the splits train, test" in problem_of(folder, split="dev")


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
