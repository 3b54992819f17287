"""Rows of JSON, JSON Lines and CSV files, read as they are written: no type is guessed, no file is loaded.

A file is gone through once for where its records are (`vlora.data.readers.record_spans`). A row is read from the disk
when it is asked for, and one that cannot be read is that row's error, with its line.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from ...errors import SampleError
from ...system.written_json import explain_json, parse_json
from ..format.values import Row, write_text
from .record_spans import (
    LINE_END,
    PORTION,
    Bytes,
    Document,
    Spans,
    find_lines,
    find_members,
    find_records,
    split_record,
)

JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
CSV_SUFFIXES = (".csv", ".tsv")
SEPARATORS = (",", "\t", ";", "|")
_NO_SEPARATOR = "\n"
"""Stands in no record outside of quotes, so that a record is one value."""
_SAMPLE_BYTES = 1 << 18
"""Bytes by which a file is judged."""
_SPLIT_NAMES = ("train", "validation", "test")
"""By one of them an object with several lists of objects is told to be one of splits."""
_MESSAGE_KEYS = ({"role", "content"}, {"from", "value"})
_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
    (b"\x1f\x8b", "compressed with gzip"),
)
_UTF8_MARK = b"\xef\xbb\xbf"


class _ColumnError(ValueError):
    """A value that cannot be read, of a document with its rows by column."""

    def __init__(self, message: str, number: int) -> None:
        """Note of which column it is."""
        super().__init__(message)
        self.number = number


@attrs.frozen(eq=False)
class TextTable:
    """The rows of one file.

    Attributes:
        path: Where it lies.
        name: How errors name it.
        spans: Where its records are, in bytes; several per row where a document has its rows by column.
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
            SampleError: It is no row; the message names the line.
        """
        try:
            with self.path.open("rb") as file:
                texts = [_read_text(file, int(span.starts[index]), int(span.ends[index])) for span in self.spans]
            return self.parse(*texts)
        except OSError as error:
            msg = f"cannot read {self.name}: {error}"
            raise SampleError(msg) from None
        except ValueError as error:
            place = self._place(index, error.number if isinstance(error, _ColumnError) else 0)
            msg = f"line {_line_at(self.path, place):,} of {self.name}: {explain_json(error)}"
            raise SampleError(msg) from None

    @property
    def columns(self) -> Sequence[str] | None:
        """The columns of a CSV."""
        return [*self.kinds] or None

    def _place(self, index: int, number: int) -> int:
        """Give the first byte of a row, or of its value in a column, that is not blank, as far as it is looked for."""
        start, end = int(self.spans[number].starts[index]), int(self.spans[number].ends[index])
        with self.path.open("rb") as file:
            file.seek(start)
            text = file.read(min(end - start, _SAMPLE_BYTES))
        return start + len(text) - len(text.lstrip())


def open_json(path: Path, *, name: str | None = None, field: str | None = None, split: str | None = None) -> TextTable:
    """Find the rows of a JSON Lines file, or of a JSON document.

    A file ending in `.json` is a document unless its first line is a JSON value and others follow. A document is a list
    of objects, an object with one such list (`{"data": [...]}`) or with one for each split (`{"train": [...], "test":
    [...]}`), an object of lists of the same length (a column each), or a single row.

    Args:
        path: The file.
        name: How it is called, where it does not lie under its name.
        field: Under which key of the document the list is; without it, under the only one that holds objects.
        split: Which list is wanted where there is one for each split.

    Raises:
        ValueError: It is another encoding, or a document without rows or without that split.
        OSError: It cannot be read.
    """
    name = name or path.name
    data, start = _open(path)
    end = _trim(data, b" \t\r\n")
    if field is None and _is_lines(data, start, end, has_lines=".json" not in Path(name.lower()).suffixes):
        return TextTable(path, name, [find_lines(data, start, end)], _read_object)
    try:
        document = find_members(data, start, end)
    except ValueError as error:
        raise _located(error, data, name) from None
    if not document.is_list:
        return _open_object(TextTable(path, name, [document.members], _read_object), data, document, field, split)
    if field is not None:
        msg = f"it is a list and has no {field!r}"
        raise ValueError(msg)
    return TextTable(path, name, [document.members], _read_object)


def open_csv(
    path: Path, *, name: str | None = None, separator: str | None = None, columns: Sequence[str] | None = None
) -> TextTable:
    """Find the rows of a file of separated values; all of them are text, and an empty cell is an empty text.

    Args:
        path: The file.
        name: How it is called, where it does not lie under its name.
        separator: What separates values; without it the one of `SEPARATORS` with which the first rows have as many
            values as the header. A file in which none separates anything has a single column.
        columns: Names of the columns, if the file has no header.

    Raises:
        ValueError: It is another encoding, a column has no name of its own, or a quote is never closed.
        OSError: It cannot be read.
    """
    name = name or path.name
    data, start = _open(path)
    end = _trim(data, b"\r\n")
    if separator is None:
        separator = _recognize(data, start, end)
    try:
        records = find_records(data, start, end, ord(separator))
    except ValueError as error:
        raise _located(error, data, name) from None
    if columns is None and len(records.starts):
        header = bytes(data[int(records.starts[0]) : int(records.ends[0])])
        try:
            columns = split_record(header.decode(), separator, is_strict=True)
        except UnicodeDecodeError as error:
            raise ValueError(_describe_bytes(error)) from None
        if b"\r" in header.removesuffix(b"\r") and not len(records.starts[1:]):
            msg = "its lines end with a carriage return alone; write it with line feeds"
            raise ValueError(msg)
        records = Spans(records.starts[1:], records.ends[1:])
    columns = _name_columns(columns or ())
    parse = functools.partial(_read_record, columns=columns, separator=separator)
    return TextTable(path, name, [records], parse, dict.fromkeys(columns, "text"))


def _open(path: Path) -> tuple[Bytes, int]:
    """Map a file for the search of its records; rows are read from the disk, which a file that shrinks cannot crash."""
    if not path.stat().st_size:
        return np.empty(0, np.uint8), 0
    data: Bytes = np.memmap(path, np.uint8, "r")
    head = bytes(data[:4])
    for mark, name in _MARKS:
        if head.startswith(mark):
            msg = f"the file is {name}; write it as UTF-8"
            raise ValueError(msg)
    if b"\x00" in head:
        msg = "the file begins with NUL bytes, as UTF-16 and UTF-32 have; write it as UTF-8"
        raise ValueError(msg)
    return data, len(_UTF8_MARK) if head.startswith(_UTF8_MARK) else 0


def _trim(data: Bytes, blank: bytes) -> int:
    """Give the end of what the file says: blank lines at its end are no rows."""
    end = len(data)
    while end:
        first = max(0, end - 4096)
        kept = bytes(data[first:end]).rstrip(blank)
        if kept:
            return first + len(kept)
        end = first
    return 0


def _first_byte(data: Bytes, start: int, end: int) -> bytes:
    return bytes(data[start : min(end, start + 4096)]).lstrip()[:1]


def _is_lines(data: Bytes, start: int, end: int, *, has_lines: bool) -> bool:
    """Whether a file is one row per line; its name may say so, but a list that spans lines is one all the same."""
    first = _first_byte(data, start, end)
    if first not in (b"[", b"{") or (has_lines and first == b"{"):
        return True
    line_end = _find_line_end(data, start, end)
    try:
        parse_json(bytes(data[start:line_end]).decode() if line_end < end else "")
    except ValueError:
        return False
    return True


def _find_line_end(data: Bytes, start: int, end: int) -> int:
    for first in range(start, end, _SAMPLE_BYTES):
        found = bytes(data[first : min(end, first + _SAMPLE_BYTES)]).find(b"\n")
        if found >= 0:
            return first + found
    return end


def _open_object(table: TextTable, data: Bytes, document: Document, field: str | None, split: str | None) -> TextTable:
    """Find the rows in a document that is an object; as a table, it is of its members."""
    names, lists = _find_lists(data, document)
    of_objects = [name for name, spans in lists.items() if _holds_objects(data, spans)]
    if field is None and split is not None and _are_splits(lists, of_objects, split):
        if split not in lists:
            msg = f"it holds a list for each of {', '.join(lists)}; name one of them in data.split"
            raise ValueError(msg)
        return attrs.evolve(table, spans=[lists[split]])
    lengths = {len(spans.starts) for spans in lists.values()}
    if field is not None and field not in lists:
        msg = f"there is no list under {field!r}; its keys are {', '.join(names)}"
        raise ValueError(msg)
    if field is not None or (len(of_objects) == 1 and not _holds_messages(data, lists[of_objects[0]])):
        return attrs.evolve(table, spans=[lists[field or of_objects[0]]])
    if len(lists) == 1 and lengths == {0}:
        return attrs.evolve(table, spans=list(lists.values()))
    if 1 < len(lists) == len(names) and len(lengths) == 1 and not of_objects:
        parse = functools.partial(_read_columns, columns=list(lists))
        return attrs.evolve(table, spans=list(lists.values()), parse=parse)
    return attrs.evolve(table, spans=[Spans(document.members.starts[:1] - 1, document.members.ends[-1:] + 1)])


def has_splits(path: Path) -> bool:
    """Whether a file is a JSON document with a list for each split; False if it cannot be read."""
    if path.suffix.lower() != ".json":
        return False
    try:
        data, start = _open(path)
        end = _trim(data, b" \t\r\n")
        if _first_byte(data, start, end) != b"{" or _is_lines(data, start, end, has_lines=False):
            return False
        _, lists = _find_lists(data, find_members(data, start, end))
    except (OSError, ValueError):
        return False
    return _are_splits(lists, [name for name, spans in lists.items() if _holds_objects(data, spans)], "")


def _find_lists(data: Bytes, document: Document) -> tuple[list[str], dict[str, Spans]]:
    """Give the keys of an object, and its lists by theirs."""
    names = [_name_member(data, int(first), int(last)) for first, last in zip(*document.members, strict=True)]
    return names, {names[number]: spans for number, spans in document.lists.items()}


def _are_splits(lists: Mapping[str, Spans], of_objects: Sequence[str], split: str) -> bool:
    """Whether lists are a split each: a row, too, may hold several lists of objects, its messages and its tools."""
    return len(lists) > 1 and bool(of_objects) and any(name in lists for name in (*_SPLIT_NAMES, split))


def _name_member(data: Bytes, start: int, end: int) -> str:
    text = bytes(data[start : min(end, start + _SAMPLE_BYTES)]).decode(errors="replace").lstrip()
    try:
        return str(json.JSONDecoder().raw_decode(text)[0])
    except ValueError as error:
        msg = f"an object's key cannot be read ({explain_json(error)})"
        raise ValueError(msg) from None


def _holds_objects(data: Bytes, spans: Spans) -> bool:
    return len(spans.starts) > 0 and _first_byte(data, int(spans.starts[0]), int(spans.ends[0])) == b"{"


def _holds_messages(data: Bytes, spans: Spans) -> bool:
    """Whether the objects of a list are the messages of one row, and no rows."""
    try:
        first = parse_json(bytes(data[int(spans.starts[0]) : int(spans.ends[0])]).decode())
    except ValueError:
        return False
    return any(pair <= first.keys() for pair in _MESSAGE_KEYS)


def _read_text(file: Any, start: int, end: int) -> str:
    file.seek(start)
    try:
        return str(file.read(end - start), "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(_describe_bytes(error)) from None


def _describe_bytes(error: UnicodeDecodeError) -> str:
    found = error.object[error.start : error.end].hex(" ")
    return f"found the bytes {found}, which are no UTF-8; write the file as UTF-8"


def _read_object(text: str) -> Row:
    if not text.strip():
        msg = "the line is blank; take it out"
        raise ValueError(msg)
    row = parse_json(text)
    if not isinstance(row, dict):
        found = (
            "a list" if isinstance(row, list) else "a string" if isinstance(row, str) else write_text([row], "")[1:-1]
        )
        msg = f"found {found}, expected an object with the row's columns"
        raise ValueError(msg)  # noqa: TRY004 - bad data, not a bad call
    return row


def _read_columns(*texts: str, columns: Sequence[str]) -> Row:
    row = {}
    for number, (column, text) in enumerate(zip(columns, texts, strict=True)):
        try:
            row[column] = parse_json(text)
        except ValueError as error:
            msg = f"the column {column!r}: {explain_json(error)}"
            raise _ColumnError(msg, number) from None
    return row


def _read_record(text: str, columns: Sequence[str], separator: str) -> Row:
    values = split_record(text, separator, is_strict=True)
    if not text.strip("\r") and len(columns) > 1:
        msg = "the line is blank; take it out"
        raise ValueError(msg)
    if len(values) > len(columns):
        msg = f"found {len(values)} values for {len(columns)} columns; put values that contain {separator!r} in quotes"
        raise ValueError(msg)
    if len(values) < len(columns):
        found = f"found {len(values)} value{'s' * (len(values) != 1)} for {len(columns)} columns"
        first, at = columns[len(values)], f" by {separator!r}" if separator != _NO_SEPARATOR else ""
        msg = f"{found}, none from {first!r} on; separate all values{at}, an empty one has nothing between"
        raise ValueError(msg)
    return dict(zip(columns, values, strict=True))


def _name_columns(names: Sequence[str]) -> list[str]:
    columns = [name.strip() or f"column {number}" for number, name in enumerate(names, 1)]
    twice = next((name for number, name in enumerate(columns) if name in columns[:number]), None)
    if twice is not None:
        msg = f"two columns have the name {twice!r}; give each its own"
        raise ValueError(msg)
    return columns


def _recognize(data: Bytes, start: int, end: int) -> str:
    """Find the separator with which the first records have as many values as the header, and more than one."""
    sample = data[start : min(end, start + _SAMPLE_BYTES)]
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


def _located(error: ValueError, data: Bytes, name: str) -> ValueError:
    what, place = error.args
    line = int(np.count_nonzero(data[:place] == LINE_END)) + 1
    return ValueError(f"line {line:,} of {name}: {what}")


def _line_at(path: Path, place: int) -> int:
    """Count the lines up to a place; only for an error, since it reads the file."""
    n_lines = 1
    with path.open("rb") as file:
        while place > 0 and (portion := file.read(min(place, PORTION))):
            n_lines += portion.count(b"\n")
            place -= len(portion)
    return n_lines
