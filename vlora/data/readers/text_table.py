"""Rows of text files, read from disk on access; an unreadable row is an error of that row only.

A file is scanned once for the positions of its records (`vlora.data.readers.record_spans`). No types are guessed, and
no file is loaded.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from ...errors import SampleError
from ...system.pickling import reduce_error
from ...system.written_json import explain_json
from ..values import Row
from .record_spans import CHUNK_BYTES, LINE_END, Bytes, Spans

SAMPLE_BYTES = 1 << 18
"""Bytes from which the type of a file is recognized."""

_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
    (b"\x1f\x8b", "compressed with gzip"),
)
LINE_FEED = b"\n"
_UTF8_MARK = b"\xef\xbb\xbf"


class ColumnError(ValueError):
    """A value that cannot be read, in a document that is stored by columns."""

    def __init__(self, message: str, number: int) -> None:
        """Note of which column it is."""
        super().__init__(message)
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        """Be made again by what it knows."""
        return reduce_error(self)


@attrs.frozen(eq=False)
class TextTable:
    """The rows of one file.

    Attributes:
        path: Its path.
        name: How errors name it.
        spans: Byte ranges of its records; several per row where a document is stored by columns.
        parse: Makes a row of its records' texts.
        kinds: Of a CSV, "text" for every column.
    """

    path: Path
    name: str
    spans: Sequence[Spans]
    parse: Callable[..., Row]
    kinds: Mapping[str, str] = attrs.field(factory=dict)

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.spans[0].starts)

    def __getitem__(self, index: int) -> Row:
        """Read a row.

        Raises:
            SampleError: It is not a row; the message names the line.
        """
        try:
            with self.path.open("rb") as file:
                texts = [_read_text(file, int(span.starts[index]), int(span.ends[index])) for span in self.spans]
            return self.parse(*texts)
        except OSError as error:
            msg = f"cannot read {self.name}: {error}"
            raise SampleError(msg) from None
        except ValueError as error:
            place = self._place(index, error.number if isinstance(error, ColumnError) else 0)
            msg = f"line {_line_at(self.path, place):,} of {self.name}: {explain_json(error)}"
            raise SampleError(msg) from None

    @property
    def columns(self) -> Sequence[str] | None:
        """The columns of a CSV."""
        return [*self.kinds] or None

    def line(self, index: int) -> str | None:
        """Say on which line of the file a row begins; None if the file can no longer be read."""
        start = int(self.spans[0].starts[index])
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                before = file.read(self._place(index, 0) - start)
            return f"line {int(self._lines[index]) + before.count(LINE_FEED):,} of {self.name}"
        except OSError:
            return None

    @functools.cached_property
    def _lines(self) -> npt.NDArray[np.int64]:
        """The lines on which records begin, from 1: counted once, since a file may have many rows with errors."""
        with self.path.open("rb") as file:
            chunks = iter(lambda: file.read(CHUNK_BYTES), b"")
            ends = [np.flatnonzero(np.frombuffer(chunk, np.uint8) == LINE_END) for chunk in chunks]
        found = [own + number * CHUNK_BYTES for number, own in enumerate(ends)]
        starts = np.asarray(self.spans[0].starts)
        return np.searchsorted(np.concatenate(found), starts) + 1 if found else np.ones(len(starts), np.int64)

    def _place(self, index: int, number: int) -> int:
        """Return the position of the first byte of a row, or of its value in a column, that is not blank."""
        start, end = int(self.spans[number].starts[index]), int(self.spans[number].ends[index])
        with self.path.open("rb") as file:
            file.seek(start)
            text = file.read(min(end - start, SAMPLE_BYTES))
        return start + len(text) - len(text.lstrip())


def map_file(path: Path) -> tuple[Bytes, int]:
    """Map a file into memory to find its records. Rows are read from disk instead: the file may shrink."""
    if not path.stat().st_size:
        return np.empty(0, np.uint8), 0
    data: Bytes = np.memmap(path, np.uint8, "r")
    return data, check_encoding(bytes(data[:4]))


def check_encoding(head: bytes) -> int:
    """Check the first four bytes of a file, and give the place at which its text begins.

    Raises:
        ValueError: They are not those of a text in UTF-8.
    """
    for mark, name in _MARKS:
        if head.startswith(mark):
            msg = f"the file is {name}; write it as UTF-8"
            raise ValueError(msg)
    if b"\x00" in head:
        msg = "the file begins with NUL bytes, as UTF-16 and UTF-32 have; write it as UTF-8"
        raise ValueError(msg)
    return len(_UTF8_MARK) if head.startswith(_UTF8_MARK) else 0


def trim(data: Bytes, blank: bytes) -> int:
    """Return the end of the content: blank lines at the end are not rows."""
    end = len(data)
    while end:
        first = max(0, end - 4096)
        kept = bytes(data[first:end]).rstrip(blank)
        if kept:
            return first + len(kept)
        end = first
    return 0


def _read_text(file: Any, start: int, end: int) -> str:
    file.seek(start)
    try:
        return str(file.read(end - start), "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(describe_bytes(error)) from None


def describe_bytes(error: UnicodeDecodeError) -> str:
    """Describe the bytes of a text that are not UTF-8."""
    found = error.object[error.start : error.end].hex(" ")
    return f"found the bytes {found}, which are no UTF-8; write the file as UTF-8"


def locate(error: ValueError, data: Bytes, name: str) -> ValueError:
    """Add the line number to an error whose arguments are the problem and a byte position."""
    what, place = error.args
    line = int(np.count_nonzero(data[:place] == LINE_END)) + 1
    return ValueError(f"line {line:,} of {name}: {what}")


def _line_at(path: Path, place: int) -> int:
    """Count the lines up to a position; only for errors, since it reads the file."""
    n_lines = 1
    with path.open("rb") as file:
        while place > 0 and (chunk := file.read(min(place, CHUNK_BYTES))):
            n_lines += chunk.count(b"\n")
            place -= len(chunk)
    return n_lines
