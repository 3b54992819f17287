"""Parquet as a stream: the same rows as read by number, group by group, any row found again."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlora.data.readers import stream_parquet
from vlora.data.readers.stream import Damage, Found, Place, RowStream
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
        unread = [found._replace(kept=None) for found in found[place:]]
        assert list(reader.find(Found(row.number, row.offset), keeps=False)) == unread
    monkeypatch.setattr(stream_parquet, "_open", None)
    assert [row[:2] for row in reader.find(keeps=False)] == [row[:2] for row in found]


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


def test_rows_before_a_damage_are_found_again(tmp_path: Path) -> None:
    """A group that is damaged in its middle has its first rows; one that is gone is an error of its rows."""
    file, noise = tmp_path / "rows.parquet", np.random.default_rng(0)
    table = pa.table({"text": [noise.bytes(2000).hex() for _ in range(600)]})
    pq.write_table(table, file, row_group_size=600, compression="none", data_page_size=20_000, use_dictionary=False)
    column = pq.ParquetFile(file).metadata.row_group(0).column(0)
    with file.open("r+b") as opened:
        opened.seek(column.data_page_offset + column.total_compressed_size * 6 // 10)
        opened.write(b"\xff" * 60_000)
    stream = RowStream(files=[local_file(file, tmp_path)], open_reader=open_parquet)
    *good, last = stream.find([0])

    assert isinstance(last.kept, Damage)
    assert len(good) > stream_parquet.ROWS_AT_ONCE
    assert stream.restore([row.place for row in good]) == good
    (restored,) = stream.restore([Place(0, 599, 0)])
    with pytest.raises(SampleError, match=r"row 599 of rows\.parquet cannot be read, or is not there any more"):
        stream.read(restored)


def test_a_group_is_read_once_for_threads_that_ask_for_its_rows(path: Path) -> None:
    """The threads ask for rows of one group at the same time: how far one of them falls behind is up to the system."""
    reader = open_parquet(local_file(path, path.parent))
    once = stream_parquet._read_group_once
    once.cache_clear()
    places = list(reader.find())
    groups = [list(rows) for _, rows in itertools.groupby(places, key=lambda row: row.offset)]
    with ThreadPoolExecutor(4) as pool:
        for group in groups:
            list(pool.map(lambda row: reader.read(row.number, row.offset), group))
    assert once.cache_info().misses == len(groups) == len(reader.starts) - 1
