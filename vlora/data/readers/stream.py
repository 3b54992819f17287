"""Streams: rows of files that are read one after another, without counting them first.

A place says where a row is: its file, its number there, and where the file has to be read from to find it (a byte, or a
group of rows). Places are found in the files' own order, which costs little where a row need not be read for it, and
any of them can be read later, by several threads at once.
"""

import contextlib
import hashlib
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import attrs
import numpy as np

from ...errors import SampleError
from ...types import RowMark
from ..values import Row
from .stream_files import StreamFile, explain_damage

OPEN_READERS = 64
"""Files whose header, or last group of rows, is kept."""


class Place(NamedTuple):
    """Where a row of a stream is.

    Attributes:
        shard: Which of the stream's files, by their sorted names.
        number: Which row of the file, from 0.
        offset: Where the file is read from to find it: the first byte of the row, or its group of rows.
    """

    shard: int
    number: int
    offset: int


class Found(NamedTuple):
    """A row that was found in a file.

    Attributes:
        number: As in `Place`.
        offset: As in `Place`.
        kept: What was read of it, where it had to be read to be found; None if it is read later.
    """

    number: int
    offset: int
    kept: Any = None


class ShardReader(Protocol):
    """Finds and reads the rows of one file. Called by several threads."""

    @property
    def kinds(self) -> Mapping[str, str]:
        """Kinds of columns that the file declares; see `vlora.data.rows.RowDataset`."""

    def find(self, first: Found | None = None, *, keeps: bool = True) -> Iterator[Found]:
        """Yield the rows from one on, which was found before; from the first without it.

        Args:
            first: The row from which on.
            keeps: Whether to read of each row what `Found.kept` has.

        Raises:
            ValueError, OSError: The file cannot be read, or not any further.
        """

    def keep(self, number: int, offset: int) -> Any:
        """Read what `Found.kept` has of a row."""

    def read(self, number: int, offset: int, kept: Any = None) -> Row:
        """Read a row.

        Raises:
            SampleError: It is no row; the message names the file and the line.
        """


DAMAGED = -1
"""`Place.offset` of what stands for the rest of a file that cannot be read any further: a bad row."""


@attrs.frozen
class Damage:
    """Why a file cannot be read any further."""

    reason: str


class Drawn(NamedTuple):
    """A row that was drawn from a stream, and perhaps read.

    Attributes:
        place: Where it is.
        kept: As in `Found`.
    """

    place: Place
    kept: Any = None


@attrs.frozen(eq=False, kw_only=True)
class RowStream:
    """The rows of several files, as a stream.

    Attributes:
        files: The files, sorted by name.
        open_reader: Makes the reader of a file.
        fills_gaps: See `vlora.data.readers.table.fills_gaps`.
        first: Rows before this place, in the files' own order, are not of the stream.
        end: Neither are the row at this place and those behind it.
    """

    files: Sequence[StreamFile]
    open_reader: Callable[[StreamFile], ShardReader]
    fills_gaps: bool = False
    first: Place | None = None
    end: Place | None = None
    _readers: "OrderedDict[int, ShardReader]" = attrs.field(factory=OrderedDict, init=False)
    _lock: Any = attrs.field(factory=threading.Lock, init=False)

    def order(self, *, seed: int, epoch: int, shuffle: bool) -> list[int]:
        """Give the order in which an epoch reads the files: drawn anew for each, or that of their names."""
        numbers: list[int] = list(range(len(self.files)))
        if shuffle:
            numbers = np.random.default_rng((seed, epoch)).permutation(len(self.files)).tolist()
        return numbers

    def find(self, order: Sequence[int], behind: Place | None = None, *, keeps: bool = True) -> Iterator[Drawn]:
        """Yield rows as they follow one another in files.

        Args:
            order: Which files, one after another.
            behind: The row behind which to begin; it is one of them.
            keeps: Whether to read of each row what `Found.kept` has.
        """
        start = 0 if behind is None else order.index(behind.shard)
        for shard in order[start:]:
            if self.end is not None and shard > self.end.shard:
                continue
            number, first = 0, None
            if behind is not None and shard == behind.shard:
                if behind.offset == DAMAGED:
                    continue
                number, first = behind.number + 1, Found(behind.number, behind.offset)
            elif self.first is not None and shard <= self.first.shard:
                if shard < self.first.shard:
                    continue
                first = Found(self.first.number, self.first.offset)
            try:
                found = self.reader(shard).find(first, keeps=keeps)
                for row in itertools.islice(found, int(number > 0), None):
                    if self.end is not None and (shard, row.number) >= self.end[:2]:
                        break
                    number = row.number + 1
                    yield Drawn(Place(shard, row.number, row.offset), row.kept)
            except (OSError, ValueError) as error:
                yield Drawn(Place(shard, number, DAMAGED), Damage(str(error)))

    def head(self, n_rows: int) -> list[Place]:
        """Find the first rows, no more than these, in the files' own order. A row that is found unread stays unread."""
        return [row.place for row in itertools.islice(self.find(range(len(self.files)), keeps=False), n_rows)]

    def restore(self, places: Iterable[Place]) -> list[Drawn]:
        """Give rows that were drawn before as `find` gives them; pictures stay closed."""
        wanted = list(places)
        # Sorted, so that a group of rows is read once.
        kept: dict[Place, Any] = {}
        for place in sorted(place for place in wanted if place.offset != DAMAGED):
            try:
                kept[place] = self.reader(place.shard).keep(place.number, place.offset)
            except (OSError, ValueError) as error:
                # Told when the row is due, as of other rows that cannot be read.
                kept[place] = Damage(str(error))
        return [Drawn(place, kept.get(place)) for place in wanted]

    def read(self, drawn: Drawn) -> Row:
        """Read a row.

        Raises:
            SampleError: It is no row.
        """
        place = drawn.place
        if place.offset == DAMAGED or isinstance(drawn.kept, Damage):
            known = drawn.kept.reason if isinstance(drawn.kept, Damage) else None
            reason = known or explain_damage(lambda: self.reader(place.shard).find(keeps=False))
            msg = f"{self.files[place.shard].name} cannot be read from here on: {reason}"
            raise SampleError(msg)
        try:
            return self.reader(place.shard).read(place.number, place.offset, drawn.kept)
        except SampleError:
            raise
        except (OSError, ValueError) as error:
            msg = f"cannot read {self.files[place.shard].name}: {error}"
            raise SampleError(msg) from None

    def reader(self, shard: int) -> ShardReader:
        """Give the reader of a file."""
        with self._lock:
            if shard not in self._readers:
                self._readers[shard] = self.open_reader(self.files[shard])
            self._readers.move_to_end(shard)
            while len(self._readers) > OPEN_READERS:
                self._readers.popitem(last=False)
            return self._readers[shard]

    def name_row(self, place: Place) -> str:
        """Name a row as messages do: by its file, its number, and the name of its members where it has some."""
        name = f"{self.files[place.shard].name} row {place.number}"
        with contextlib.suppress(OSError, ValueError):
            find_key = getattr(self.reader(place.shard), "key", None) if place.offset != DAMAGED else None
            key = None if find_key is None else find_key(place.offset)
            return name if key is None else f"{name} ({key})"
        return name

    def line(self, place: Place) -> str | None:
        """Say on which line of its file a row begins; None of a file without lines, and where that is not known."""
        if place.offset == DAMAGED:
            return None
        with contextlib.suppress(OSError, ValueError):
            find_line = getattr(self.reader(place.shard), "line", None)
            line = None if find_line is None else find_line(place.number, place.offset)
            return None if line is None else f"line {line:,} of {self.files[place.shard].name}"
        return None

    def folder(self, place: Place) -> Path | None:
        """Give the folder where the relative image paths of a row begin; None if it is not on this machine."""
        return self.files[place.shard].folder

    def mark(self, shard: int) -> RowMark:
        """Return what a file is known by: its name, its size and the time of its last change."""
        file = self.files[shard]
        digest = hashlib.blake2b(file.name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        if file.folder is None:
            # An address names the version.
            return RowMark(index=shard, digest=digest)
        try:
            found = os.stat(file.path)  # noqa: PTH116 - for each row
        except OSError:
            return RowMark(index=shard, digest=digest)
        return RowMark(index=shard, digest=digest, files=((file.path, found.st_size, found.st_mtime_ns),))

    def fingerprint(self) -> str:
        """Compute what the list of files is known by: their names, in order."""
        names = "\n".join(file.name for file in self.files)
        return hashlib.blake2b(names.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
