"""Finds the byte ranges of records in text files, and splits a record into values. Pure.

Files may have millions of rows, so work per row is done with NumPy, a chunk of the file at a time.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]

CHUNK_BYTES = 1 << 24
"""Bytes per chunk."""
LINE_END, CARRIAGE, QUOTE, BACKSLASH, COMMA = b'\n\r"\\,'
_OPENING, _CLOSING = b"[{", b"]}"
_DEEPEST = 2
"""Levels of a document's nesting that are parsed: its own object, and a list in it."""


class Spans(NamedTuple):
    """Byte ranges of records.

    Attributes:
        starts: i64[N], first bytes.
        ends: i64[N], exclusive.
    """

    starts: Places
    ends: Places


def find_lines(data: Bytes, start: int, end: int) -> Spans:
    """Find the lines between two positions; the rest behind the last line end is a line, too."""
    return _between(_places_of(data, start, end, LINE_END), start, end)


def find_records(data: Bytes, start: int, end: int, separator: int) -> Spans:
    """Find the records of a CSV file: lines, where line ends within quotes do not count.

    A quote opens a value where the value begins, and closes it where the next byte is no quote; elsewhere it is a
    character like any other, as in Python's `csv`.

    Raises:
        ValueError: A quote is never closed; the second argument is its position.
    """
    lines = _places_of(data, start, end, LINE_END)
    quotes = _places_of(data, start, end, QUOTE)
    if len(quotes):
        opened, closed = _quoted_values(data, quotes, start, separator)
        lines = lines[np.searchsorted(opened, lines) == np.searchsorted(closed, lines)]
    return _between(lines, start, end)


def _between(ends: Places, start: int, end: int) -> Spans:
    if start >= end:
        return Spans(np.empty(0, np.int64), np.empty(0, np.int64))
    return Spans(np.concatenate([[start], ends + 1]), np.append(ends, end))


def _places_of(data: Bytes, start: int, end: int, byte: int) -> Places:
    found = []
    for first in range(start, end, CHUNK_BYTES):
        chunk = data[first : min(first + CHUNK_BYTES, end)]
        found.append(np.flatnonzero(chunk == byte).astype(np.int64) + first)
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _quoted_values(data: Bytes, quotes: Places, start: int, separator: int) -> tuple[Places, Places]:
    """Return the quotes that open values, and those that close them."""
    before = data[np.maximum(quotes - 1, 0)]
    begins = (before == separator) | (before == LINE_END) | (quotes == start)
    after = data[np.minimum(quotes + 1, len(data) - 1)]
    follows = np.append(False, np.diff(quotes) == 1)
    ends = (after == separator) | (after == LINE_END) | (after == CARRIAGE) | (quotes == len(data) - 1)
    # In a well-formed file quotes alternate: a doubled one within a value closes it and opens it again.
    opens, closes = slice(0, None, 2), slice(1, None, 2)
    if (
        len(quotes) % 2 == 0
        and (begins[opens] | follows[opens]).all()
        and (ends[closes] | np.append(follows[1:], False)[closes]).all()
    ):
        return quotes[opens], quotes[closes]
    return _quoted_one_by_one(quotes, begins)


def _quoted_one_by_one(quotes: Places, begins: npt.NDArray[np.bool_]) -> tuple[Places, Places]:
    places, starts = quotes.tolist(), begins.tolist()
    opened, closed = [], []
    place = 0
    while place < len(places):
        if not starts[place]:
            place += 1
            continue
        opened.append(places[place])
        place += 1
        while place + 1 < len(places) and places[place + 1] == places[place] + 1:
            place += 2
        if place >= len(places):
            msg = "a quote opens a value and none closes it"
            raise ValueError(msg, opened[-1])
        closed.append(places[place])
        place += 1
    return np.array(opened, np.int64), np.array(closed, np.int64)


def split_record(record: str, separator: str, *, is_strict: bool = False) -> list[str]:
    """Split a record into its values, as Python's `csv` does: a quote within quotes is doubled.

    Args:
        record: The record.
        separator: The separator of values.
        is_strict: Whether a value is refused that goes on behind the quote that closes it. Such a value
            was meant to have a quote within it (after a backslash, say), which `csv` would leave out in silence.

    Raises:
        ValueError: A value goes on behind its closing quote.
    """
    record = record.removesuffix("\r")
    values, place = [], 0
    while True:
        value = ""
        if record.startswith('"', place):
            closing = _closing_quote(record, place + 1)
            value = record[place + 1 : closing].replace('""', '"')
            place = min(closing + 1, len(record))
            if is_strict and place < len(record) and not record.startswith(separator, place):
                msg = f"a value goes on behind the quote that closes it: {record[place : place + 20]!r}"
                raise ValueError(msg + '; write a quote within quotes twice ("")')
        behind = record.find(separator, place)
        values.append(value + record[place : behind if behind >= 0 else len(record)])
        if behind < 0:
            return values
        place = behind + 1


def _closing_quote(record: str, place: int) -> int:
    while True:
        place = record.find('"', place)
        if place < 0:
            return len(record)
        if not record.startswith('""', place):
            return place
        place += 2


class Document(NamedTuple):
    """The outer shape of a JSON document.

    Attributes:
        is_list: It is a list, otherwise an object.
        members: Members of the list, or of the object (key, colon and value).
        lists: Members of those lists that are members of an object, by the member's number.
    """

    is_list: bool
    members: Spans
    lists: dict[int, Spans]


def find_members(data: Bytes, start: int, end: int) -> Document:
    """Find the members of a document that is a list or an object, and those of the lists in an object.

    Raises:
        ValueError: It is neither, it is cut off, or followed by more; the second argument is the position.
    """
    places, bytes_, depths = _outline(data, start, end)
    if not len(places) or bytes_[0] not in _OPENING:
        msg = "expected a list of objects"
        raise ValueError(msg, start)
    over = np.flatnonzero(depths <= 0)
    if not len(over):
        msg = "the document ends before what it opens is closed"
        raise ValueError(msg, end - 1)
    if places[over[0]] != end - 1:
        msg = "something stands behind the end of the document"
        raise ValueError(msg, int(places[over[0]]) + 1)
    own = depths == 1
    members = _separate(data, places[own & (bytes_ == COMMA)], int(places[0]), end - 1)
    is_list = bytes_[0] == b"["[0]
    lists: dict[int, Spans] = {}
    if not is_list:
        begins = np.flatnonzero((bytes_ == b"["[0]) & (depths == _DEEPEST))
        finishes = np.flatnonzero((bytes_ == b"]"[0]) & own)
        commas = places[(bytes_ == COMMA) & (depths == _DEEPEST)]
        for first, last in zip(places[begins].tolist(), places[finishes].tolist(), strict=True):
            inner = commas[np.searchsorted(commas, first) : np.searchsorted(commas, last)]
            number = int(np.searchsorted(members.starts, first, side="right")) - 1
            lists[number] = _separate(data, inner, first, last)
    return Document(is_list, members, lists)


def _separate(data: Bytes, commas: Places, opening: int, closing: int) -> Spans:
    if not len(commas) and not bytes(data[opening + 1 : closing]).strip():
        return Spans(commas, commas)
    return _between(commas, opening + 1, closing)


def _outline(data: Bytes, start: int, end: int) -> tuple[Places, Bytes, Places]:
    """Give the brackets and commas outside of strings at the outermost depths: places, bytes, depths behind them."""
    places, bytes_, depths = [], [], []
    for found, kinds, behind in _structure(data, start, end):
        kept = behind <= _DEEPEST
        places.append(found[kept])
        bytes_.append(kinds[kept])
        depths.append(behind[kept])
    if not places:
        return np.empty(0, np.int64), np.empty(0, np.uint8), np.empty(0, np.int64)
    return np.concatenate(places), np.concatenate(bytes_), np.concatenate(depths)


def _structure(data: Bytes, start: int, end: int) -> Iterator[tuple[Places, Bytes, Places]]:
    table = np.zeros(256, np.bool_)
    table[list(b'[]{},"\\')] = True
    steps = np.zeros(256, np.int64)
    steps[list(_OPENING)] = 1
    steps[list(_CLOSING)] = -1
    escaped = in_string = False
    depth = 0
    for first in range(start, end, CHUNK_BYTES):
        chunk = data[first : min(first + CHUNK_BYTES, end)]
        places = np.flatnonzero(table[chunk])
        kinds = chunk[places]
        skipped, escaped = _escaped(places[kinds == BACKSLASH], len(chunk), after_backslash=escaped)
        kept = ~skipped[places] & (kinds != BACKSLASH)
        places, kinds = places[kept], kinds[kept]
        is_quote = kinds == QUOTE
        inside = (np.cumsum(is_quote) + in_string) % 2 == 1
        in_string = bool(inside[-1]) if len(inside) else in_string
        kept = ~is_quote & ~inside
        places, kinds = places[kept], kinds[kept]
        depths = depth + np.cumsum(steps[kinds])
        depth = int(depths[-1]) if len(depths) else depth
        yield places.astype(np.int64) + first, kinds, depths


def _escaped(backslashes: Places, n_bytes: int, *, after_backslash: bool) -> tuple[npt.NDArray[np.bool_], bool]:
    """Mark the bytes that are escaped by a backslash."""
    marked = np.zeros(n_bytes + 1, np.bool_)
    marked[0] = after_backslash
    if len(backslashes):
        begins = np.append(True, np.diff(backslashes) != 1)
        place_in_run = backslashes - backslashes[begins][np.cumsum(begins) - 1]
        if after_backslash and backslashes[0] == 0:
            place_in_run[np.cumsum(begins) == 1] += 1
        marked[backslashes[place_in_run % 2 == 0] + 1] = True
    return marked[:n_bytes], bool(marked[n_bytes])
