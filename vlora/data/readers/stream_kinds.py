"""Which files are streamed, and by what."""

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from ...system.files import expand
from ...system.globs import list_files
from .csv_files import CSV_SUFFIXES
from .digits import BUILTIN_DIGITS
from .stream import ShardReader
from .stream_csv import open_records
from .stream_files import StreamFile, find_local
from .stream_hub import find_split
from .stream_lines import LinesReader
from .stream_parquet import open_parquet
from .stream_tar import TarReader

_READERS: dict[str, Callable[[StreamFile], ShardReader]] = {
    ".jsonl": LinesReader,
    ".ndjson": LinesReader,
    ".json": LinesReader,
    **dict.fromkeys(CSV_SUFFIXES, open_records),
    ".parquet": open_parquet,
    ".tar": TarReader,
}
STREAM_SUFFIXES = tuple(_READERS)
"""Endings of the files that are streamed."""


def check_stream(path: str) -> None:
    """Check that what a recipe streams is there, as far as this machine says it.

    Raises:
        ValueError: It is not, or it is not streamed.
    """
    if path == BUILTIN_DIGITS:
        msg = "the built-in rows are at hand and are not streamed; leave data.streaming out"
        raise ValueError(msg)
    files = find_local(path)
    if files:
        reader_for(files)
    elif files is not None or (expand(path).suffix.lower() in STREAM_SUFFIXES and not expand(path).is_dir()):
        msg = "there is no such file"
        raise ValueError(msg)


def find_files(path: str, split: str, config: str | None, revision: str | None) -> list[StreamFile]:
    """Find the files of a split, sorted by name.

    Raises:
        ValueError: There are none, or not of that split.
        OSError: They cannot be found.
    """
    check_stream(path)
    files = find_local(path)
    return find_split(path, split, config, revision) if files is None else files


def reader_for(files: Sequence[StreamFile]) -> Callable[[StreamFile], ShardReader]:
    """Find what reads files, all of one kind.

    Raises:
        ValueError: They are of several kinds, or of one that is not streamed.
    """
    kinds = {suffix_of(file): file.name for file in files}
    for suffix, name in kinds.items():
        if suffix not in _READERS:
            known = ", ".join(STREAM_SUFFIXES)
            msg = f"{name!r} is not streamed, files ending in {known} are; leave data.streaming out, or convert it"
            raise ValueError(msg)
    if len({_READERS[suffix] for suffix in kinds}) > 1:
        msg = f"{' and '.join(kinds.values())} are of different kinds; name files of one kind, such as *.jsonl"
        raise ValueError(msg)
    return _READERS[next(iter(kinds))]


def suffix_of(file: StreamFile) -> str:
    """Give the ending of a file's name."""
    return PurePosixPath(file.name).suffix.lower()


def is_read_by_number(path: str) -> bool:
    """Whether rows to validate on are read as those of a recipe without a stream."""
    return all(expand(file).suffix.lower() != ".tar" for file in (path, *list_files(path)))
