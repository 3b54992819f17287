"""Rows of a data set as conversations on demand; images stay closed."""

import contextlib
import functools
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from ..errors import SampleError
from ..facts import Columns, SourceShare, UnnamedImages
from ..recipe.columns import ColumnUse
from ..system.files import expand, is_file
from ..types import Sample
from .epoch_order import EpochOrder, plain_order
from .format.image_sizes import SizedImage
from .format.samples import Preferences, Reading, read_sample
from .readers.inline_images import is_inline
from .readers.stream import RowStream
from .readers.table import Table, line_in, names_images, place_in
from .readers.urls import is_url
from .values import Row

FIRST_ROWS = 32
"""How many rows `first_samples` reads at most."""


@attrs.define(eq=False)
class _Seen:
    """What became of the columns of rows, as threads read them."""

    use: ColumnUse = attrs.field(factory=ColumnUse)
    _lock: Any = attrs.field(factory=threading.Lock, init=False)

    def add(self, use: ColumnUse) -> None:
        with self._lock:
            if not use.is_part_of(self.use):
                self.use |= use


@attrs.frozen(eq=False, kw_only=True)
class RowDataset:
    """The rows of one split, as conversations on demand.

    Attributes:
        name: How error messages name the data set ("train.jsonl").
        table: The rows.
        indices: Which of them, by number.
        folder: Where relative image paths begin; None if the paths are not files beside the rows.
        reading: How a row becomes a conversation.
        kinds: Of columns that have a declared type, what they hold ("image", "audio", "label", "text", ...; see
            `vlora.data.readers.typed_tables.kind_of`). Files of text declare nothing.
        commit: The version of a hub data set; None of others.
        stream: What the rows are the first ones of, where a run streams them; None of rows that all have numbers.
    """

    name: str
    table: Table
    indices: Sequence[int]
    folder: Path | None = None
    reading: Reading = attrs.field(factory=Reading)
    kinds: Mapping[str, str] = attrs.field(factory=dict)
    commit: str | None = None
    stream: RowStream | None = None
    _seen: _Seen = attrs.field(factory=_Seen, alias="seen")

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.indices)

    @property
    def n_known(self) -> int | None:
        """Count all rows; None where they are the first ones of a stream."""
        return None if self.streams else len(self)

    @property
    def title(self) -> str:
        """Name the rows that have numbers: of a stream the first ones."""
        streams = self.streams
        what = "a stream" if len(streams) == 1 else f"{len(streams)} streams"
        return f"the beginning of {self.name} ({len(self):,} rows of {what})" if streams else self.name

    @property
    def n_marks(self) -> int:
        """Count what a run tells apart of what it has learned: rows, or the files of streams."""
        return sum(len(stream.files) for stream in self.streams) if self.streams else len(self)

    @property
    def streams(self) -> tuple[RowStream, ...]:
        """What the rows are the first ones of: a stream, or one for each source; none of rows that all have numbers."""
        return () if self.stream is None else (self.stream,)

    def __getitem__(self, index: int) -> Sample:
        """Read a row as a conversation.

        Raises:
            SampleError: There is none in it.
        """
        return self.read(index)[1]

    def read(self, index: int) -> tuple[Row, Sample]:
        """Read a row as the table has it, and as a conversation.

        Raises:
            SampleError: There is no conversation in it.
        """
        table_index = int(self.indices[index])
        source, own_folder = place_in(self.table, table_index) or (f"{self.name} row {table_index}", None)
        folder = self.folder or own_folder
        try:
            row = self.table[table_index]
        except SampleError as error:
            msg = f"{source}: {error}"
            raise SampleError(msg) from None
        with self.locating(index):
            try:
                sample, use = read_sample(row, source, self.reading)
            except RecursionError:
                msg = f"{source}: lists and objects are nested too deep"
                raise SampleError(msg) from None
        self._seen.add(use)
        if folder is not None:
            sample = attrs.evolve(sample, images=tuple(beside(image, folder) for image in sample.images))
        return row, sample

    def name_row(self, index: int) -> str:
        """Name a row as messages do."""
        number = int(self.indices[index])
        place = place_in(self.table, number)
        return f"{self.name} row {number}" if place is None else place[0]

    @contextlib.contextmanager
    def locating(self, index: int) -> Iterator[None]:
        """Name the line of a row in errors about it, where its file has lines: people look for it there.

        Raises:
            SampleError: As it was raised, with the line.
        """
        try:
            yield
        except SampleError as error:
            name = f"{self.name_row(index)}: "
            rest = error.message.removeprefix(name)
            # An error of the file itself has it.
            if rest != error.message and not rest.startswith("line ") and (line := self.line_of(index)) is not None:
                error.message = f"{name}{line}: {rest}"
            raise

    def line_of(self, index: int) -> str | None:
        """Say on which line of its file a row begins; None of rows that are no lines."""
        return line_in(self.table, int(self.indices[index]))

    def name_source(self, index: int) -> str | None:
        """Name the source of a row; None of rows that are no mixture."""
        del index
        return None

    def find_numbered(self, number: int) -> Iterator[int]:
        """Find the row of a number, as messages have it."""
        yield from np.flatnonzero(np.asarray(self.indices) == number).tolist()

    def number_range(self) -> tuple[int, int]:
        """The lowest and the highest number of a row."""
        numbers = np.asarray(self.indices)
        return int(numbers.min()), int(numbers.max())

    def with_preferences(self, preferences: Preferences | None) -> "RowDataset":
        """Let rows be read as preferences."""
        return attrs.evolve(self, reading=attrs.evolve(self.reading, preferences=preferences))

    def order(self, *, seed: int, shuffle: bool) -> EpochOrder:
        """Make what gives the order of each epoch, as indices of rows."""
        return plain_order(len(self), seed=seed, shuffle=shuffle)

    def shares(self) -> tuple[SourceShare, ...]:
        """Say how the sources of a mixture are mixed; nothing for other rows."""
        return ()

    @property
    def commits(self) -> Mapping[str, str]:
        """Versions of hub data sets by the key that names them."""
        return {} if self.commit is None else {"data": self.commit}

    def first_samples(self, n_rows: int = FIRST_ROWS) -> Iterator[Sample]:
        """Yield the conversations of the first rows; rows without one are left out, and no column counts as read."""
        return self.unseen_samples(range(min(n_rows, len(self))))

    def unseen_samples(self, indices: Iterable[int]) -> Iterator[Sample]:
        """Yield the conversations of rows; rows without one are left out, and no column counts as read."""
        unseen = attrs.evolve(self, seen=_Seen())
        for index in indices:
            with contextlib.suppress(SampleError):
                yield unseen[index]

    def columns(self) -> Columns:
        """Return which columns of the rows that were read so far are used, and which are not."""
        use = self._seen.use
        missing = tuple(column for column in self.reading.columns if column not in use.used.keys() | use.unused)
        return Columns(used=use.used, unused=tuple(sorted(use.unused)), missing=missing, unnamed=self._unnamed)

    @functools.cached_property
    def _unnamed(self) -> UnnamedImages | None:
        if not names_images(self.table):
            return None
        from .readers.image_folders import find_unnamed

        return find_unnamed(self.table)


def beside(image: Any, folder: Path) -> Any:
    """Resolve a relative image path against the folder of the file that names it; addresses and base64 stay."""
    if isinstance(image, SizedImage):
        return attrs.evolve(image, image=beside(image.image, folder))
    if isinstance(image, dict) and image.get("bytes") is None:
        image = image.get("path")
    if isinstance(image, str) and not is_url(image) and not is_inline(image):
        path = folder / expand(image)
        return str(path) if is_file(path) or not is_file(expand(image)) else image
    return image
