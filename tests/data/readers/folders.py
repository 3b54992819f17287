"""Folders and repositories that the tests of sources write."""

import csv
import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

from tests.data.data_sets import picture, write_jsonl
from vlora.data.rows import RowDataset

AWKWARD = ["007", "12.50", "3", "true", "None", "NA", "null", "2024-03-05", "1" * 23, '["cat"]', '{"a": 1}', "é"]


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


def write_card(folder: Path, settings: str, labels: str = "") -> None:
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files: rows.csv\n{settings}{labels}---\n"
    )
