"""Parquet as a stream: the same rows as read by number, group by group, any row found again."""

from pathlib import Path

import datasets
import numpy as np
import pytest

from vlora.data.readers import stream_parquet
from vlora.data.readers.stream import Found
from vlora.data.readers.stream_files import local_file
from vlora.data.readers.stream_parquet import open_parquet
from vlora.data.readers.typed_tables import open_table
from vlora.errors import SampleError

N_ROWS = 11


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Write rows with a label, a short float and a picture, four in a group."""
    features = datasets.Features(
        {
            "name": datasets.ClassLabel(names=["cat", "dog"]),
            "price": datasets.Value("float32"),
            "image": datasets.Image(),
        }
    )
    rows = {
        "name": [n % 2 for n in range(N_ROWS)],
        "price": [0.1 * n for n in range(N_ROWS)],
        "image": [{"bytes": bytes([n]) * 3, "path": None} for n in range(N_ROWS)],
    }
    file = tmp_path / "rows.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(file), batch_size=4)
    return file


def test_rows_are_those_of_the_table(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels by name, short floats as themselves, pictures closed; kinds likewise."""
    monkeypatch.setattr(stream_parquet, "ROWS_AT_ONCE", 3)
    table = open_table(datasets.Dataset.from_parquet(str(path)))
    reader = open_parquet(local_file(path, path.parent))
    found = list(reader.find())

    assert reader.starts == (0, 4, 8, 11)
    assert dict(reader.kinds) == dict(table.kinds)
    assert [reader.read(*row) for row in found] == [table[index] for index in range(N_ROWS)]
    for place, row in enumerate(found):
        assert list(reader.find(Found(row.number, row.offset))) == found[place:]
        assert reader.keep(row.number, row.offset) == row.kept
        assert reader.read(row.number, row.offset) == table[place]


def test_a_bad_value_is_an_error_of_its_row(tmp_path: Path) -> None:
    """It names the file and the row."""
    features = datasets.Features({"name": datasets.ClassLabel(names=["cat"])})
    file = tmp_path / "rows.parquet"
    table = datasets.Dataset.from_dict({"name": [0]}, features=features)
    table.to_parquet(str(file))
    reader = open_parquet(local_file(file, tmp_path))

    assert reader.read(0, 0) == {"name": "cat"}
    with pytest.raises(SampleError, match=r"row 0 of rows\.parquet: cannot read the values: there is no class label 7"):
        reader.read(0, 0, {"name": np.int64(7)})


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    """By pyarrow's own words."""
    file = tmp_path / "rows.parquet"
    file.write_text("no parquet at all, whatever its name")
    with pytest.raises(ValueError, match="Parquet"):
        open_parquet(local_file(file, tmp_path))
