"""Files that tests stream."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.training import picture
from vlora.data.readers.stream import RowStream
from vlora.data.readers.stream_files import find_local
from vlora.data.readers.stream_kinds import reader_for


def write_lines(folder: Path, counts: Sequence[int], stem: str = "rows", first: int = 0) -> str:
    """Write files of JSON Lines with so many rows each, numbered through; return a path with a wildcard."""
    folder.mkdir(parents=True, exist_ok=True)
    number = first
    for shard, count in enumerate(counts):
        lines = []
        for _ in range(count):
            lines.append(json.dumps({"question": f"What is {number}?", "answer": f"It is {number}."}))
            number += 1
        (folder / f"{stem}-{shard}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return str(folder / f"{stem}-*.jsonl")


def open_files(path: str) -> RowStream:
    """Open a stream."""
    files = find_local(path) or []
    return RowStream(files=files, open_reader=reader_for(files))


def write_tar(path: Path, members: Sequence[tuple[str, bytes | str]], **settings: Any) -> Path:
    """Write an archive of members."""
    with tarfile.open(path, "w", **settings) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            content = data.encode() if isinstance(data, str) else data
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_shards(folder: Path, counts: Sequence[int]) -> str:
    """Write archives with so many rows each, a picture and a question with its answer; return a path for all."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for shard, count in enumerate(counts):
        members: list[tuple[str, bytes | str]] = []
        for _ in range(count):
            image = io.BytesIO()
            picture(32 + 16 * (number % 2), 32, number).save(image, "PNG")
            row = {"question": f"What is {number}?", "answer": f"It is {number}."}
            members += [(f"{number:06d}.png", image.getvalue()), (f"{number:06d}.json", json.dumps(row))]
            number += 1
        write_tar(folder / f"rows-{shard}.tar", members)
    return str(folder / "rows-*.tar")


def write_parquet(folder: Path, counts: Sequence[int], rows_per_group: int = 3) -> str:
    """Write Parquet files with so many rows each, in small groups; return a path for all."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for shard, count in enumerate(counts):
        rows = [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(number, number + count)]
        number += count
        table = pa.Table.from_pylist(rows, schema=pa.schema([("question", pa.string()), ("answer", pa.string())]))
        pq.write_table(table, folder / f"rows-{shard}.parquet", row_group_size=rows_per_group)
    return str(folder / "rows-*.parquet")


def write_csv(folder: Path, counts: Sequence[int]) -> str:
    """Write CSV files with so many rows each; return a path for all."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for shard, count in enumerate(counts):
        lines = [f'"What\nis {n}?",It is {n}.' for n in range(number, number + count)]
        number += count
        (folder / f"rows-{shard}.csv").write_text("\n".join(["question,answer", *lines]))
    return str(folder / "rows-*.csv")
