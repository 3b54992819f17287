"""Rows of a stream by number: the first ones, whose places are known, and those that were drawn."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import attrs

from ...types import RowMark
from ..values import Row
from .stream import Drawn, Place, RowStream


@attrs.frozen(eq=False)
class PlacesTable:
    """A table of rows of a stream whose places are known.

    Attributes:
        stream: The stream.
        places: Of each row.
    """

    stream: RowStream
    places: Sequence[Place]

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.places)

    def __getitem__(self, index: int) -> Row:
        """Read a row.

        Raises:
            SampleError: It is no row.
        """
        return self.stream.read(Drawn(self.places[index]))

    @property
    def kinds(self) -> Mapping[str, str]:
        """Kinds of the columns, as the first file declares them."""
        return self.stream.reader(self.places[0].shard).kinds if self.places else {}

    @property
    def columns(self) -> Sequence[str] | None:
        """The columns that the first file declares; None if it declares none."""
        return [*self.kinds] or None

    @property
    def fills_gaps(self) -> bool:
        """See `vlora.data.readers.table.fills_gaps`."""
        return self.stream.fills_gaps

    def place(self, index: int) -> tuple[str, Path | None]:
        """Name a row, and give the folder where its image paths begin."""
        return self.stream.name_row(self.places[index]), self.stream.folder(self.places[index])

    def line(self, index: int) -> str | None:
        """Say on which line of its file a row begins."""
        return self.stream.line(self.places[index])


@attrs.define(eq=False)
class DrawnTable:
    """The rows that were drawn and are read by their numbers; a row's number counts those drawn before.

    Attributes:
        stream: The stream.
    """

    stream: RowStream
    _drawn: dict[int, Drawn] = attrs.field(factory=dict, init=False)
    _n_reads: dict[int, int] = attrs.field(factory=dict, init=False)

    def put(self, index: int, row: Drawn, n_reads: int = 1) -> None:
        """Let a row be read by its number, so many times from what was kept of it."""
        self._drawn[index], self._n_reads[index] = row, n_reads

    def expect(self, index: int, n_reads: int) -> None:
        """Let what was kept of a row be given up after so many reads; without one, now."""
        self._n_reads[index] = n_reads
        if n_reads <= 0:
            self._drawn[index] = Drawn(self._drawn[index].place)

    def forgo(self, index: int) -> None:
        """Let a row be read once less often from what was kept of it."""
        self.expect(index, self._n_reads[index] - 1)

    def find(self, index: int) -> Place:
        """Say where a row is."""
        return self._drawn[index].place

    def drop(self, indices: Iterable[int]) -> None:
        """Forget rows."""
        for index in indices:
            self._drawn.pop(index, None)
            self._n_reads.pop(index, None)

    def __len__(self) -> int:
        """Count the rows that can be read."""
        return len(self._drawn)

    def __getitem__(self, index: int) -> Row:
        """Read a row; what was kept of it is given up when it is read for the last time.

        Raises:
            SampleError: It is no row.
        """
        drawn = self._drawn[index]
        self._n_reads[index] -= 1
        if self._n_reads[index] <= 0:
            self._drawn[index] = Drawn(drawn.place)
        return self.stream.read(drawn)

    def mark(self, index: int) -> RowMark:
        """Return what a row's file is known by."""
        return self.stream.mark(self._drawn[index].place.shard)

    def place(self, index: int) -> tuple[str, Path | None]:
        """Name a row, and give the folder where its image paths begin."""
        place = self._drawn[index].place
        return self.stream.name_row(place), self.stream.folder(place)

    def line(self, index: int) -> str | None:
        """Say on which line of its file a row begins."""
        return self.stream.line(self._drawn[index].place)
