"""Rows of JSON and JSON Lines files, read as they are written."""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from ...errors import SplitError
from ...system.written_json import explain_json, parse_json
from ..values import Row, write_text
from .record_spans import Bytes, Document, Spans, find_lines, find_members
from .text_table import SAMPLE_BYTES, ColumnError, TextTable, locate, map_file, trim

JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
_SPLIT_NAMES = ("train", "validation", "test")
"""Keys by which an object with several lists of objects is recognized as one of splits."""
_MESSAGE_KEYS = ({"role", "content"}, {"from", "value"})


def open_json(path: Path, *, name: str | None = None, field: str | None = None, split: str | None = None) -> TextTable:
    """Find the rows of a JSON Lines file, or of a JSON document.

    A file ending in `.json` is a document unless its first line is a JSON value and others follow. A document is a list
    of objects, an object with one such list (`{"data": [...]}`) or with one for each split (`{"train": [...], "test":
    [...]}`), an object of lists of the same length (a column each), or a single row.

    Args:
        path: The file.
        name: Its name in messages, where the file lies under another one.
        field: Key of the list in the document; without it the only one that holds objects.
        split: The list to read where there is one for each split.

    Raises:
        ValueError: The encoding is not UTF-8, or the document has no rows or not that split.
        OSError: It cannot be read.
    """
    name = name or path.name
    data, start = map_file(path)
    end = trim(data, b" \t\r\n")
    if field is None and _is_lines(data, start, end, has_lines=".json" not in Path(name.lower()).suffixes):
        return TextTable(path, name, [find_lines(data, start, end)], read_object)
    try:
        document = find_members(data, start, end)
    except ValueError as error:
        raise locate(error, data, name) from None
    if not document.is_list:
        return _open_object(TextTable(path, name, [document.members], read_object), data, document, field, split)
    if field is not None:
        msg = f"it is a list and has no {field!r}"
        raise ValueError(msg)
    return TextTable(path, name, [document.members], read_object)


def _first_byte(data: Bytes, start: int, end: int) -> bytes:
    return bytes(data[start : min(end, start + 4096)]).lstrip()[:1]


def _is_lines(data: Bytes, start: int, end: int, *, has_lines: bool) -> bool:
    """Whether a file has one row per line, judged by its name and its beginning."""
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
    for first in range(start, end, SAMPLE_BYTES):
        found = bytes(data[first : min(end, first + SAMPLE_BYTES)]).find(b"\n")
        if found >= 0:
            return first + found
    return end


def _open_object(table: TextTable, data: Bytes, document: Document, field: str | None, split: str | None) -> TextTable:
    """Find the rows in a document that is an object."""
    names, lists = _find_lists(data, document)
    of_objects = [name for name, spans in lists.items() if _holds_objects(data, spans)]
    if field is None and split is not None and _are_splits(lists, of_objects, split):
        if split not in lists:
            msg = f"it holds a list for each of {', '.join(lists)}; name one of them in data.split"
            raise SplitError(msg, lists)
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
        data, start = map_file(path)
        end = trim(data, b" \t\r\n")
        if _first_byte(data, start, end) != b"{" or _is_lines(data, start, end, has_lines=False):
            return False
        _, lists = _find_lists(data, find_members(data, start, end))
    except (OSError, ValueError):
        return False
    return _are_splits(lists, [name for name, spans in lists.items() if _holds_objects(data, spans)], "")


def _find_lists(data: Bytes, document: Document) -> tuple[list[str], dict[str, Spans]]:
    """Return the keys of an object, and its lists by key."""
    names = [_name_member(data, int(first), int(last)) for first, last in zip(*document.members, strict=True)]
    return names, {names[number]: spans for number, spans in document.lists.items()}


def _are_splits(lists: Mapping[str, Spans], of_objects: Sequence[str], split: str) -> bool:
    """Whether lists are splits: a row may also have several lists of objects, its messages and its tools."""
    return len(lists) > 1 and bool(of_objects) and any(name in lists for name in (*_SPLIT_NAMES, split))


def _name_member(data: Bytes, start: int, end: int) -> str:
    text = bytes(data[start : min(end, start + SAMPLE_BYTES)]).decode(errors="replace").lstrip()
    try:
        return str(json.JSONDecoder().raw_decode(text)[0])
    except ValueError as error:
        msg = f"an object's key cannot be read ({explain_json(error)})"
        raise ValueError(msg) from None


def _holds_objects(data: Bytes, spans: Spans) -> bool:
    return len(spans.starts) > 0 and _first_byte(data, int(spans.starts[0]), int(spans.ends[0])) == b"{"


def _holds_messages(data: Bytes, spans: Spans) -> bool:
    """Whether the objects of a list are the messages of one row, and not rows."""
    try:
        first = parse_json(bytes(data[int(spans.starts[0]) : int(spans.ends[0])]).decode())
    except ValueError:
        return False
    return any(pair <= first.keys() for pair in _MESSAGE_KEYS)


def read_object(text: str) -> Row:
    """Read a row.

    Raises:
        ValueError: The text is no JSON object.
    """
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
            raise ColumnError(msg, number) from None
    return row
