"""The files of a stream: where they are, and how they are opened."""

import bisect
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import attrs

from ...system.files import expand
from ...system.globs import is_pattern, list_files
from .record_spans import CHUNK_BYTES


@attrs.frozen(kw_only=True)
class StreamFile:
    """A file of a stream.

    Attributes:
        path: Its path, or its address.
        name: How messages name it.
        folder: The folder that it lies in; None if it is not on this machine.
    """

    path: str
    name: str
    folder: Path | None = None

    def open(self) -> BinaryIO:
        """Open it for reading, at any byte.

        Raises:
            OSError: It cannot be opened.
        """
        if self.folder is not None:
            return Path(self.path).open("rb")
        from datasets.utils.file_utils import xopen

        return cast("BinaryIO", xopen(self.path, "rb"))


@attrs.define(eq=False)
class LineNumbers:
    """The lines of a file's bytes; only for errors, since they are counted by reading the file.

    Attributes:
        file: The file.
    """

    file: StreamFile
    _known: list[tuple[int, int]] = attrs.field(factory=lambda: [(0, 1)], init=False)
    _lock: Any = attrs.field(factory=threading.Lock, init=False)

    def find(self, place: int) -> int:
        """Say on which line a byte is, from 1: counted from the nearest one before it that was asked for.

        Many rows of a file may have errors, and they come about in its order.
        """
        with self._lock:
            number = bisect.bisect(self._known, (place, sys.maxsize)) - 1
            before, line = self._known[number]
            if before == place:
                return line
            line += _count_ends(self.file, before, place)
            self._known.insert(number + 1, (place, line))
            return line


def line_at(file: StreamFile, place: int) -> int:
    """Say on which line of a file a byte is; only for errors, since it reads the file."""
    return 1 + _count_ends(file, 0, place)


def _count_ends(file: StreamFile, first: int, last: int) -> int:
    """Count the line ends between two bytes."""
    n_ends, left = 0, last - first
    with file.open() as opened:
        opened.seek(first)
        while left > 0 and (chunk := opened.read(min(left, CHUNK_BYTES))):
            n_ends += chunk.count(b"\n")
            left -= len(chunk)
    return n_ends


def explain_damage(find: Callable[[], Iterable[object]]) -> str:
    """Say why a file cannot be read through; only for errors, since it reads the file.

    Args:
        find: Finds its rows.
    """
    try:
        for _ in find():
            pass
    except (OSError, ValueError) as error:
        return str(error)
    return "it was damaged when it was read before"


def find_local(path: str) -> list[StreamFile] | None:
    """Find the files that a path of this machine names, sorted; None if it names no file."""
    place = expand(path)
    if is_pattern(path):
        return name_files([Path(file) for file in list_files(path)])
    return [local_file(place, place.parent)] if place.is_file() else None


def name_files(paths: Sequence[Path]) -> list[StreamFile]:
    """Name files by what their paths do not share."""
    if not paths:
        return []
    shared = paths[0].parent
    while not all(path.is_relative_to(shared) for path in paths):
        shared = shared.parent
    return [local_file(path, shared) for path in paths]


def local_file(path: Path, shared: Path) -> StreamFile:
    """Describe a file of this machine, named from a folder on."""
    return StreamFile(path=str(path), name=path.relative_to(shared).as_posix(), folder=path.parent)
