"""Which rows a run has learned: a run goes on with the same rows only, see `unchanged.py`.

Beside the training state a file names every row that was learned: its number, a digest of what stands in it, and the
size and the time of each file that it names. It is only ever added to, and a state says how much of it is its own.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from ..data.values import Row
from ..output import atomic
from ..system.files import expand
from ..types import RowMark, Sample

NAME = "learned.jsonl"
SAMPLED_BYTES = 4096


@attrs.define(eq=False)
class Learned:
    """The rows that a run has learned.

    Attributes:
        path: The file that names them.
        is_known: Of each row, whether the file names it.
        n_bytes: What of the file is written.
    """

    path: Path
    is_known: NDArray[np.bool_]
    n_bytes: int = 0
    _waiting: list[str] = attrs.field(factory=list, init=False)

    def add(self, marks: Iterable[RowMark]) -> None:
        """Take note of rows that were learned; what is known already is not noted again."""
        for mark in marks:
            if not self.is_known[mark.index]:
                self.is_known[mark.index] = True
                self._waiting.append(json.dumps([mark.index, mark.digest, mark.files]) + "\n")

    def write(self) -> int:
        """Write what was noted; give how many bytes of the file a training state has to remember."""
        if self._waiting:
            text = "".join(self._waiting)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_file() and self.path.stat().st_size != self.n_bytes:
                # What a run had written behind its last saved state.
                os.truncate(self.path, self.n_bytes)
            atomic.append_text(self.path, text)
            atomic.sync(self.path)
            self.n_bytes += len(text.encode())
            self._waiting.clear()
        return self.n_bytes


def begin(path: Path, n_marks: int) -> Learned:
    """Begin without a row; of a stream, without a file."""
    return Learned(path, np.zeros(n_marks, dtype=np.bool_))


def parse_mark(index: int, digest: str, files: Iterable[Sequence[Any]], n_tokens: int = 0) -> RowMark:
    """Give the mark of which JSON has kept the parts."""
    known = tuple((name, size, time) for name, size, time in files)
    return RowMark(index=int(index), digest=digest, files=known, n_tokens=n_tokens)


def mark_row(index: int, row: Row, sample: Sample) -> RowMark:
    """Return what identifies a row.

    Args:
        index: Its place among the rows.
        row: What stands in it.
        sample: What it was read as.
    """
    files = [os.fspath(image) for image in sample.images if isinstance(image, (str, os.PathLike))]
    return RowMark(
        index=index,
        digest=digest_row(row),
        files=tuple(found for path in files if (found := look_at(path)) is not None),
    )


def digest_row(row: Any) -> str:
    """Compute the digest of a row's values; of bytes it covers their number and a sample."""
    try:
        text = json.dumps(row, default=_sum_up, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        # Nothing that a row of text or of a table holds.
        return ""
    return hashlib.blake2b(text.encode("utf-8", errors="surrogatepass"), digest_size=8).hexdigest()


def _sum_up(value: Any) -> str:
    if isinstance(value, (bytes, bytearray, memoryview)):
        data = bytes(value)
        parts = data[:SAMPLED_BYTES], data[-SAMPLED_BYTES:], data[:: max(1, len(data) // SAMPLED_BYTES)]
        return f"{len(data)} {hashlib.blake2b(b''.join(parts), digest_size=8).hexdigest()}"
    if callable(to_bytes := getattr(value, "tobytes", None)):
        return f"{type(value).__name__} {_sum_up(to_bytes())}"
    return str(value)


def look_at(path: str) -> tuple[str, int, int] | None:
    """Give a file's size and time; None if there is none, as behind an address."""
    if path.startswith(("~", "file:")):
        path = str(expand(path))
    try:
        found = os.stat(path)  # noqa: PTH116 - 100,000 times at the start of a run
    except (OSError, ValueError):
        return None
    return path, found.st_size, found.st_mtime_ns
