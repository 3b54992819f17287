"""The benchmark of streams writes the rows that it says."""

import json
from pathlib import Path

from benchmarks.streaming import describe_row, draw_picture, write_shards
from tests.data.streams import open_files


def test_shards_have_all_rows(tmp_path: Path) -> None:
    """Each with its own question and the picture of all."""
    stream = open_files(write_shards(tmp_path, 23))
    rows = [stream.read(row) for row in stream.find(range(len(stream.files)))]

    assert [{key: row[key] for key in ("question", "answer")} for row in rows] == [describe_row(n) for n in range(23)]
    assert {json.dumps(len(row["image"]["bytes"])) for row in rows} == {str(len(draw_picture()))}
