"""Rows of CSV and similar files; all values are text, as they are written."""

import functools
import re
from collections.abc import Sequence
from pathlib import Path

from ...system.nouns import with_noun
from ..values import Row
from .record_spans import Bytes, Spans, find_lines, find_records, split_record
from .text_table import SAMPLE_BYTES, TextTable, describe_bytes, locate, map_file, trim

CSV_SUFFIXES = (".csv", ".tsv")
SEPARATORS = (",", "\t", ";", "|")
_SEPARATOR_LINE = re.compile(rb'"?sep=([,\t;|])"?\r?\n', re.IGNORECASE)
"""What Excel reads, and some programs write, above the header."""
_NO_SEPARATOR = "\n"
"""A separator that no record contains outside of quotes, so that a record is one value."""


def open_csv(
    path: Path, *, name: str | None = None, separator: str | None = None, columns: Sequence[str] | None = None
) -> TextTable:
    """Find the rows of a file of separated values; all values are text, and an empty cell is an empty text.

    Args:
        path: The file.
        name: Its name in messages, where the file lies under another one.
        separator: What separates values; without it the one that a line `sep=;` above the header names, or the one of
            `SEPARATORS` with which the first rows have as many values as the header. A file in which none separates
            anything has a single column.
        columns: Names of the columns, if the file has no header.

    Raises:
        ValueError: The encoding is not UTF-8, two columns have one name, or a quote is never closed.
        OSError: It cannot be read.
    """
    name = name or path.name
    data, start = map_file(path)
    end = trim(data, b"\r\n")
    if columns is None:
        named, start = skip_separator_line(data, start)
        separator = separator or named
    if separator is None:
        separator = recognize(data, start, end)
    try:
        records = find_records(data, start, end, ord(separator))
    except ValueError as error:
        raise locate(error, data, name) from None
    if columns is None and len(records.starts):
        header = bytes(data[int(records.starts[0]) : int(records.ends[0])])
        try:
            columns = split_record(header.decode(), separator, is_strict=True)
        except UnicodeDecodeError as error:
            raise ValueError(describe_bytes(error)) from None
        if b"\r" in header.removesuffix(b"\r") and not len(records.starts[1:]):
            msg = "its lines end with a carriage return alone; write it with line feeds"
            raise ValueError(msg)
        records = Spans(records.starts[1:], records.ends[1:])
    columns = name_columns(columns or ())
    parse = functools.partial(read_record, columns=columns, separator=separator)
    return TextTable(path, name, [records], parse, dict.fromkeys(columns, "text"))


def read_record(text: str, columns: Sequence[str], separator: str) -> Row:
    """Read a row.

    Raises:
        ValueError: The record is blank, or has not as many values as there are columns.
    """
    values = split_record(text, separator, is_strict=True)
    if not text.strip("\r") and len(columns) > 1:
        msg = "the line is blank; take it out"
        raise ValueError(msg)
    if len(values) > len(columns):
        msg = f"found {len(values)} values for {len(columns)} columns; put values that contain {separator!r} in quotes"
        raise ValueError(msg)
    if len(values) < len(columns):
        found = f"found {with_noun(len(values), 'value', commas=False)} for {len(columns)} columns"
        first, at = columns[len(values)], f" by {separator!r}" if separator != _NO_SEPARATOR else ""
        msg = f"{found}, none from {first!r} on; separate all values{at}, an empty one has nothing between"
        raise ValueError(msg)
    return dict(zip(columns, values, strict=True))


def name_columns(names: Sequence[str]) -> list[str]:
    """Name columns as a header does, those without a name by their numbers.

    Raises:
        ValueError: Two have one name.
    """
    columns = [name.strip() or f"column {number}" for number, name in enumerate(names, 1)]
    twice = next((name for number, name in enumerate(columns) if name in columns[:number]), None)
    if twice is not None:
        msg = f"two columns have the name {twice!r}; give each its own"
        raise ValueError(msg)
    return columns


def skip_separator_line(data: Bytes, start: int) -> tuple[str | None, int]:
    """Return the separator that a line above the header names, such as `sep=;`, and where the header begins."""
    found = _SEPARATOR_LINE.match(bytes(data[start : start + 16]))
    return (None, start) if found is None else (found[1].decode(), start + found.end())


def recognize(data: Bytes, start: int, end: int) -> str:
    """Find the separator with which the first records have as many values as the header, and more than one."""
    sample = data[start : min(end, start + SAMPLE_BYTES)]
    best, found = (0.0, 1), _NO_SEPARATOR
    for separator in SEPARATORS:
        try:
            spans = find_records(sample, 0, len(sample), ord(separator))
        except ValueError:
            # The sample may end within quotes.
            spans = find_lines(sample, 0, len(sample))
        records = [
            split_record(bytes(sample[int(first) : int(last)]).decode(errors="replace"), separator)
            for first, last in zip(spans.starts, spans.ends, strict=True)
        ]
        header, rows = records[:1], records[1:-1] if len(sample) < end - start else records[1:]
        n_columns = len(header[0]) if header else 1
        share = sum(len(row) == n_columns for row in rows) / len(rows) if rows else 1.0
        if n_columns > 1 and (share, n_columns) > best:
            best, found = (share, n_columns), separator
    return found
