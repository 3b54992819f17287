"""Files that tests stream."""

import json
from collections.abc import Sequence
from pathlib import Path

from vlora.data.readers.stream import RowStream
from vlora.data.readers.stream_files import find_local
from vlora.data.readers.stream_kinds import reader_for


def write_lines(folder: Path, counts: Sequence[int], stem: str = "rows") -> str:
    """Write files of JSON Lines with so many rows each, numbered through; return a path with a wildcard."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
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
