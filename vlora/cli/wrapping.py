"""Wraps lines for a terminal: between words, and within a word only at separators of a path. Pure.

A command is broken so that it can be pasted: each of its lines but the last ends with a backslash.
"""

import re
from collections.abc import Iterator

from rich.cells import cell_len
from rich.text import Text

COMMAND = re.compile(r"\s*python -m \w")
PIECES = re.compile(r"\s+|(?:'[^']*'|\"[^\"]*\"|[^\s'\"])+|['\"]")
"""Spaces and words; commands are not broken within quotes."""
WORDS = re.compile(r"\s+|\S+")
PATHS = re.compile(r"[^/]*/|[^/]+")
INDENT = 2
SLASHES_OF_A_PATH = 2
"""From which on a word is a path, where paths stay behind the word before them."""


def wrap(text: Text, width: int, *, in_paths: bool = True) -> Text:
    """Wrap a text to a width; continuation lines are indented further.

    A word wider than that is not broken if it has no path separator.

    Args:
        text: The text.
        width: Columns.
        in_paths: Whether words may be broken at path separators; if not, paths stay behind the word before them, and
            commands in one line.
    """
    lines = text.split("\n", allow_blank=True)
    return Text("\n").join(piece for line in lines for piece in _wrap_line(line, width, in_paths=in_paths))


def _wrap_line(line: Text, width: int, *, in_paths: bool) -> Iterator[Text]:
    is_command = COMMAND.match(line.plain) is not None
    if cell_len(line.plain) <= width or (is_command and not in_paths):
        yield line
        return
    indent = len(line.plain) - len(line.plain.lstrip()) + INDENT
    end = " \\" if is_command else ""
    pieces = PIECES if is_command else WORDS
    starts = list(_find_breaks(line.plain, width - len(end), indent, pieces, in_paths=in_paths and not is_command))
    parts = line.divide(starts)
    for number, piece in enumerate(parts):
        is_last = number == len(parts) - 1
        if not is_last:
            piece.rstrip()
            piece.append(end)
        yield piece if not number else Text(" " * indent) + piece


def _find_breaks(plain: str, width: int, indent: int, pieces: re.Pattern[str], *, in_paths: bool) -> Iterator[int]:
    """Yield the positions at which lines begin, except the first."""
    column, is_empty = 0, True
    before: int | None = None
    for found in pieces.finditer(plain):
        size = cell_len(found[0])
        if found[0].isspace():
            column += size
            continue
        stays = not in_paths and found[0].count("/") >= SLASHES_OF_A_PATH
        start: int | None = found.start()
        if column + size > width and not is_empty and (place := before if stays else start) is not None:
            yield place
            column = indent + cell_len(plain[place : found.start()])
            start = None
        # The line may also be broken before this word, unless it is the first one.
        before = None if is_empty else start
        is_empty = False
        if column + size > width and "/" in found[0] and in_paths:
            for part in PATHS.finditer(found[0]):
                if column + cell_len(part[0]) > width and part.start():
                    yield found.start() + part.start()
                    column = indent
                column += cell_len(part[0])
        else:
            column += size
