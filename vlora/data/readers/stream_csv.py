"""CSV as a stream: a row is a record, found by its first byte; all values are text, as they are written."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import attrs
import numpy as np

from ...errors import SampleError
from ..values import Row
from .csv_files import name_columns, read_record, recognize, skip_separator_line
from .record_spans import split_record
from .stream import Found
from .stream_files import LineNumbers, StreamFile, line_at
from .text_table import SAMPLE_BYTES, check_encoding, describe_bytes

LONGEST_RECORD = 1 << 26
"""Bytes of a record at most: a quote that is never closed would read the rest of the file."""


@attrs.frozen(eq=False)
class CsvReader:
    """The rows of a CSV file.

    Attributes:
        file: The file.
        columns: Its columns.
        separator: What separates its values.
    """

    file: StreamFile
    columns: Sequence[str]
    separator: str
    _begin: int
    _lines: LineNumbers = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """Count the file's own lines."""
        object.__setattr__(self, "_lines", LineNumbers(self.file))

    @property
    def kinds(self) -> Mapping[str, str]:
        """Of every column "text"."""
        return dict.fromkeys(self.columns, "text")

    def find(self, first: Found | None = None, *, keeps: bool = True) -> Iterator[Found]:
        """Yield the records; blank lines at the end are none.

        Raises:
            ValueError: A quote is never closed.
        """
        with self.file.open() as file:
            number, offset = (0, self._begin) if first is None else first[:2]
            file.seek(offset)
            blank: list[Found] = []
            while record := _next_record(file, self.separator, self.file, offset):
                found = Found(number, offset, record if keeps and self.file.folder is None else None)
                number, offset = number + 1, offset + len(record)
                if not record.strip(b"\r\n"):
                    blank.append(found)
                    continue
                yield from blank
                blank.clear()
                yield found

    def keep(self, number: int, offset: int) -> Any:
        """Read a record of a file that is not on this machine."""
        del number
        return self._record(offset) if self.file.folder is None else None

    def read(self, number: int, offset: int, kept: Any = None) -> Row:
        """Read a row.

        Raises:
            SampleError: It is no row; the message names the line.
        """
        del number
        try:
            return read_record(_decode(kept or self._record(offset)), self.columns, self.separator)
        except ValueError as error:
            msg = f"line {self._lines.find(offset):,} of {self.file.name}: {error}"
            raise SampleError(msg) from None

    def line(self, number: int, offset: int) -> int | None:
        """Say on which line a row begins, from 1; None of a file that is far, which would be fetched up to there."""
        del number
        return None if self.file.folder is None else self._lines.find(offset)

    def _record(self, offset: int) -> bytes:
        with self.file.open() as file:
            file.seek(offset)
            return _next_record(file, self.separator, self.file, offset)


def open_records(file: StreamFile) -> CsvReader:
    """Read the header of a CSV file.

    Raises:
        ValueError: The encoding is not UTF-8, or two columns have one name.
        OSError: It cannot be read.
    """
    with file.open() as opened:
        # A byte more than is looked at: it says whether the file goes on.
        sample = np.frombuffer(opened.read(SAMPLE_BYTES + 1), np.uint8)
        named, start = skip_separator_line(sample, check_encoding(bytes(sample[:4])))
        separator = named or recognize(sample, start, len(sample))
        opened.seek(start)
        header = _next_record(opened, separator, file, start)
    try:
        columns = name_columns(split_record(_decode(header), separator, is_strict=True) if header else ())
    except ValueError as error:
        msg = f"line 1 of {file.name}: {error}"
        raise ValueError(msg) from None
    return CsvReader(file, columns, separator, start + len(header))


def is_within_quotes(line: bytes, separator: bytes, *, is_open: bool) -> bool:
    """Say whether a line of a CSV file ends within quotes.

    A quote opens a value where the value begins, and closes it where the next byte is no quote.

    Args:
        line: The line, its end included.
        separator: What separates values.
        is_open: Whether the line begins within quotes.
    """
    if b'"' not in line:
        return is_open
    place = 0
    while True:
        if not is_open and line[place : place + 1] == b'"':
            place, is_open = place + 1, True
        while is_open:
            quote = line.find(b'"', place)
            if quote < 0:
                return True
            is_open = line[quote + 1 : quote + 2] == b'"'
            place = quote + 1 + is_open
        behind = line.find(separator, place)
        if behind < 0:
            return False
        place = behind + 1


def _next_record(file: BinaryIO, separator: str, where: StreamFile, offset: int) -> bytes:
    """Read the record at which a file is, its end included; empty at the end of the file."""
    line = file.readline()
    lines, n_bytes, divider = [line], len(line), separator.encode()
    is_open = is_within_quotes(line, divider, is_open=False)
    while is_open:
        line = file.readline()
        n_bytes += len(line)
        if not line or n_bytes > LONGEST_RECORD:
            msg = f"line {line_at(where, offset):,} of {where.name}: a quote opens a value and none closes it"
            raise ValueError(msg)
        lines.append(line)
        is_open = is_within_quotes(line, divider, is_open=True)
    return b"".join(lines)


def _decode(record: bytes) -> str:
    try:
        return record.removesuffix(b"\n").decode()
    except UnicodeDecodeError as error:
        raise ValueError(describe_bytes(error)) from None
