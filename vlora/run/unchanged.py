"""Whether the rows that a resumed run has learned are unchanged."""

import json
from collections.abc import Sequence
from pathlib import Path

from ..data.rows import RowDataset
from ..errors import CheckpointError, SampleError
from ..types import RowMark
from .consumed import Learned, begin, digest_row, look_at, parse_mark

NAMED = 4
"""Rows that have changed that an error names."""


def go_on(path: Path, n_bytes: int, rows: RowDataset) -> tuple[Learned, list[str]]:
    """Go on where a training state was saved.

    Args:
        path: The file.
        n_bytes: What `Learned.write` gave when the state was saved; 0 if an older vlora has saved it.
        rows: The rows as they are now.

    Returns:
        The rows that were learned by then, and what has changed of them since, in words.

    Raises:
        CheckpointError: The file is not what was written then.
    """
    learned = begin(path, rows.n_marks)
    learned.n_bytes = n_bytes
    changed = []
    for mark in _read(path, learned.n_bytes, rows.n_marks):
        learned.is_known[mark.index] = True
        if (what := _find_change(mark, rows)) is not None:
            changed.append(what)
    return learned, changed


def describe_changes(changed: Sequence[str], name: str) -> str:
    """Name rows that have changed."""
    more = f" and {len(changed) - NAMED:,} more" if len(changed) > NAMED else ""
    return f"{name}: {', '.join(changed[:NAMED])}{more}"


def _read(path: Path, n_bytes: int, n_rows: int) -> list[RowMark]:
    if not n_bytes:
        return []
    try:
        with path.open("rb") as file:
            marks = [_parse(line) for line in file.read(n_bytes).splitlines()]
            is_whole = file.tell() == n_bytes and all(0 <= mark.index < n_rows for mark in marks)
    except (OSError, ValueError, TypeError):
        is_whole = False
    if not is_whole:
        msg = (
            f"{path}: is not what the run has written, so that nothing says whether its rows have changed since; with "
            "data.allow_changed_rows = true it goes on all the same"
        )
        raise CheckpointError(msg)
    return marks


def _parse(line: bytes) -> RowMark:
    return parse_mark(*json.loads(line))


def _find_change(mark: RowMark, rows: RowDataset) -> str | None:
    """Name a row that has changed, and say what of it; None if nothing has."""
    shard = mark.index
    for stream in rows.streams:
        if shard >= len(stream.files):
            shard -= len(stream.files)
            continue
        # Of a stream a mark is that of a file, whose path may be written in other words.
        now = stream.mark(shard)
        is_same = now.digest == mark.digest and [file[1:] for file in now.files] == [file[1:] for file in mark.files]
        return None if is_same else f"all of {stream.files[shard].name}"
    name = rows.name_row(mark.index).removeprefix(f"{rows.name} ")
    try:
        if digest_row(rows.table[int(rows.indices[mark.index])]) != mark.digest:
            return f"{name} (what stands in it)"
    except SampleError:
        return f"{name} (it cannot be read)"
    changed = next((file[0] for file in mark.files if look_at(file[0]) != tuple(file)), None)
    return None if changed is None else f"{name} ({changed})"
