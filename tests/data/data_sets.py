"""Data sets of every kind, as the tests of rows write them."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from vlora import models
from vlora.data.opening import read_rows
from vlora.data.rows import RowDataset
from vlora.errors import RecipeError
from vlora.recipe.schema import DataSection

N_ROWS = 4
KINDS = ("jsonl", "json", "csv", "parquet", "saved", "saved-dict", "imagefolder", "folder-of-parquet")


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


def problem_of(path: Path | str, **data: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        read_rows(DataSection(path=str(path), **data))
    return str(caught.value)
