"""The files of a stream: where they are, and how they are opened."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, cast

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


def line_at(file: StreamFile, place: int) -> int:
    """Count the lines up to a byte; only for errors, since it reads the file."""
    n_lines = 1
    with file.open() as opened:
        while place > 0 and (chunk := opened.read(min(place, CHUNK_BYTES))):
            n_lines += chunk.count(b"\n")
            place -= len(chunk)
    return n_lines


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
