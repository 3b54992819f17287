"""Rows of several sources: each read by its own keys, errors by their keys, rows to validate on of each."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.data.data_sets import describe, make_dataset, question_rows, write_jsonl, write_pictures, write_source
from vlora.data.mixed_rows import MixedRows
from vlora.data.mixing import check_sources, read_sources
from vlora.data.opening import read_rows
from vlora.data.rows import RowDataset
from vlora.errors import RecipeError, SampleError
from vlora.recipe.schema import DataSection
from vlora.recipe.sources import SourceSection


def section(*sources: dict[str, Any], **data: Any) -> DataSection:
    return DataSection(sources=tuple(SourceSection(**source) for source in sources), **data)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Write two sources of other layouts, with images in other folders."""
    folders = tmp_path / "one", tmp_path / "two"
    for folder in folders:
        folder.mkdir()
    first = write_source("jsonl", folders[0])
    write_pictures(tmp_path / "pictures")
    rows = [{"q": f"Is it {n}?", "a": f"yes, {n}", "img": f"{n}.png"} for n in range(3)]
    rows.append({"q": "?"})
    return first, write_jsonl(folders[1] / "others.jsonl", rows)


def mixed(files: tuple[Path, Path], tmp_path: Path, **data: Any) -> tuple[MixedRows, RowDataset | None]:
    second = {
        "path": str(files[1]),
        "columns": {"q": "question", "a": "answer", "img": "image"},
        "image_root": str(tmp_path / "pictures"),
        "rows": 3,
    }
    train, valid = read_sources(section({"path": str(files[0]), "weight": 1.0}, {**second, "weight": 3.0}, **data))
    assert isinstance(train, MixedRows)
    return train, valid


def test_each_row_is_read_by_its_own_source(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Columns, folders of images and names are those of the source."""
    train, valid = mixed(files, tmp_path)

    assert valid is None
    assert describe(train) == [
        *((f"What is {number}?", str(number), [number]) for number in range(4)),
        *((f"Is it {number}?", f"yes, {number}", [number]) for number in range(3)),
    ]
    assert [train[index].source for index in (0, 6)] == ["rows.jsonl train row 0", "others.jsonl train row 2"]
    assert train.name == "rows.jsonl train + others.jsonl train"
    assert train.columns().used["q of others.jsonl train"] == "as question: the question"
    assert [(share.name, share.n_rows, share.wanted, share.n_drawn) for share in train.shares()] == [
        ("rows.jsonl train", 4, 0.25, 2),
        ("others.jsonl train", 3, 0.75, 5),
    ]
    first = [sample.source for sample in train.first_samples(4)]
    assert first == [f"{name} train row {row}" for row in (0, 1) for name in ("rows.jsonl", "others.jsonl")]


def test_columns_of_all_sources_are_said_once(files: tuple[Path, Path]) -> None:
    """Without the names of the sources, which the others have."""
    same = files[0].with_name("same.jsonl")
    same.write_bytes(files[0].read_bytes())
    train, _ = read_sources(section(*({"path": str(file), "weight": 1.0} for file in (files[0], same))))
    describe(train)

    assert train.columns().used
    assert not [column for column in train.columns().used if " of " in column]


def test_errors_name_the_source_and_its_row(files: tuple[Path, Path]) -> None:
    """A bad row is named by its own file and number; a slip in a source by its key."""
    train, _ = read_sources(section({"path": str(files[0])}, {"path": str(files[1]), "columns": {"q": "question"}}))

    with pytest.raises(SampleError, match=r"^others.jsonl train row 3: "):
        train[7]
    problems: dict[str, dict[str, Any]] = {
        "data.sources[1].path: cannot read .*no such file": {"path": "missing.jsonl"},
        "data.sources[1].path: cannot read .*no file matches": {"path": "missing-*.jsonl"},
        "data.sources[1].columns.x: .* no such column": {
            "path": str(write_source("csv", _folder(files[1]))),
            "columns": {"x": "answer"},
        },
        "data.sources[1].image_root: there is no folder": {"path": str(files[1]), "image_root": "nowhere"},
        "data.sources[1].split: found": {"path": str(files[1]), "split": "train[:10"},
        "data.sources[1]: data.valid_split: .* single split": {"path": str(files[1])},
    }
    for expected, source in problems.items():
        data = {"valid_split": "test"} if "valid_split" in expected else {}
        own = {"split": "train[1:]"} if data else {}
        first = {"path": str(write_source("saved-dict", _folder(files[0]))), **own} if data else {"path": str(files[0])}
        with pytest.raises(RecipeError, match=f"^{re.escape(expected[:15])}.*{expected[16:]}"):
            read_sources(section(first, source, **data))
    with pytest.raises(RecipeError, match=r"^data\.sources\[0\]\.path: cannot read"):
        check_sources(section({"path": "missing.jsonl"}))


def _folder(file: Path) -> Path:
    folder = file.parent / f"more{len(list(file.parent.iterdir()))}"
    folder.mkdir()
    return folder


def test_a_weight_that_leaves_nothing(files: tuple[Path, Path]) -> None:
    """It is refused: no row of the source would ever be learned."""
    with pytest.raises(
        RecipeError, match=r"^data.sources\[0\].weight: 1e-06 of the 8 rows of an epoch is less than one"
    ):
        read_sources(section({"path": str(files[0]), "weight": 1e-6}, {"path": str(files[1]), "weight": 1.0}))


def test_rows_to_validate_on(files: tuple[Path, Path], tmp_path: Path) -> None:
    """A share is held out of each source, and no row is in both; other rows are read by the keys of [data]."""
    train, valid = mixed(files, tmp_path, valid_fraction=0.3)
    assert valid is not None
    held_out = [valid[index].source for index in range(len(valid))]

    assert (len(train), len(valid)) == (5, 2)
    assert [name.partition(" ")[0] for name in held_out] == ["rows.jsonl", "others.jsonl"]
    assert not set(held_out) & {train[index].source for index in range(len(train))}
    assert [valid.name_row(index) for index in range(2)] == held_out
    _, other = mixed(files, tmp_path, valid_path=str(files[0]))
    assert other is not None
    assert (len(other), other[0].source) == (4, "rows.jsonl train row 0")


def test_names_are_told_apart(tmp_path: Path) -> None:
    """Files of one name by their paths; one file twice by its place."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "x.jsonl", [{"question": "?", "answer": name}])
    paths = [str(tmp_path / name / "x.jsonl") for name in "ab"]
    train, _ = read_sources(section({"path": paths[0]}, {"path": paths[1]}))
    twice, _ = read_sources(section({"path": paths[0]}, {"path": paths[0]}))

    assert [train.name_row(index) for index in range(2)] == [f"{path} train row 0" for path in paths]
    assert twice.name_row(1) == f"{paths[0]} train (source 1) row 0"


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_patterns(suffix: str, tmp_path: Path) -> None:
    """A path with a wildcard is all files that match; slices count over all of them, names are the files' own."""
    for number in range(3):
        if suffix == "parquet":
            make_dataset().select([number]).to_parquet(tmp_path / f"part-{number}.parquet")
        else:
            written = [{k: v for k, v in row.items() if k != "image"} for row in question_rows(str)]
            write_jsonl(tmp_path / f"part-{number}.jsonl", [written[number]])
    path = f"{tmp_path}/part-*.{suffix}"
    rows, valid = read_rows(DataSection(path=path, split="train[:2]", valid_split="train[2:]"))
    assert valid is not None

    assert [rows[index].turns[1].text for index in range(2)] == ["0", "1"]
    assert rows[1].source == f"part-1.{suffix} train row 0"
    assert rows.shares() == ()
    assert rows.columns().used["answer"] == "the answer"
    assert [valid[index].turns[1].text for index in range(len(valid))] == ["2"]
    with pytest.raises(RecipeError, match="has a single split, which is trained on"):
        read_rows(DataSection(path=path, valid_split="test"))
