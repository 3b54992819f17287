"""Rows that are held out and were learned all the same: what is held out may have changed since a run."""

import json
from pathlib import Path

from ..data.rows import RowDataset
from ..errors import SampleError
from ..output.paths import STATE_NAME
from .consumed import NAME, digest_row


def count_learned(rows: RowDataset, n_rows: int, weights: Path) -> int:
    """Count the rows that a run has learned, by all that stands in them.

    Args:
        rows: Rows that are answered.
        n_rows: How many of them, from the first one.
        weights: What the run has trained: a file, or a folder. A run's best state lies in a folder of the run.

    Returns:
        How many of them; 0 where the run has left no list of what it has learned.
    """
    folder = weights if weights.is_dir() else weights.parent
    lists = ((run / STATE_NAME).with_name(NAME) for run in (folder, folder.parent))
    found = next((path for path in lists if path.is_file()), None)
    learned = set[str]() if found is None else _read_digests(found)
    return sum(_digest(rows, place) in learned for place in range(n_rows)) if learned else 0


def _read_digests(path: Path) -> set[str]:
    """Read what identifies the rows of a list; lines that are none of it say nothing."""
    digests = set[str]()
    with path.open("rb") as file:
        for line in file:
            try:
                _, digest, _ = json.loads(line)
            except (ValueError, TypeError):
                continue
            digests.add(str(digest))
    # Of what cannot be identified.
    return digests - {""}


def _digest(rows: RowDataset, place: int) -> str:
    try:
        return digest_row(rows.table[int(rows.indices[place])])
    except SampleError:
        return ""
