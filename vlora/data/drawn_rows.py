"""Rows of streams as they are read in the order in which they are drawn: by the number of rows drawn before."""

import sys
from collections.abc import Iterable, Mapping, Sequence

import attrs

from ..types import RowMark
from .mixed_rows import MixedRows
from .readers.stream import Drawn, Place, RowStream
from .readers.stream_tables import DrawnTable
from .rows import RowDataset

NUMBERS = range(sys.maxsize)
"""Numbers of the rows of a stream, which has no end."""


@attrs.frozen
class DrawnRow:
    """A row that was drawn.

    Attributes:
        index: Its number.
        source: Which stream it is of.
        place: Where it is there.
    """

    index: int
    source: int
    place: Place


@attrs.frozen(eq=False, kw_only=True)
class DrawnMixedRows(MixedRows):
    """Rows of several streams that were drawn.

    Attributes:
        source_of: Of each row that can be read, which source it is of.
    """

    source_of: Mapping[int, int]

    def find_part(self, index: int) -> tuple[RowDataset, int]:
        """Give the source of a row; rows of all sources are numbered together."""
        return self.parts[self.source_of[index]], index


@attrs.define(eq=False, kw_only=True)
class DrawnRows:
    """Where the rows of streams are put when they are drawn.

    Attributes:
        rows: Reads them.
        is_mixture: Whether the streams are sources of a mixture, perhaps a single one.
        weights: Their shares; None of sources that have none.
        n_joined: How many rows that were drawn before a row it may be joined to: they can be read as long as it can.
    """

    rows: RowDataset
    is_mixture: bool
    weights: tuple[float, ...] | None
    _tables: Sequence[DrawnTable]
    _source_of: dict[int, int]
    n_joined: int = 0
    _given_up: set[int] = attrs.field(factory=set, init=False)

    @property
    def streams(self) -> list[RowStream]:
        """The streams, source by source."""
        return [table.stream for table in self._tables]

    def put(self, index: int, source: int, row: Drawn, n_reads: int = 1) -> None:
        """Let a row of a source be read by its number, so many times from what was kept of it."""
        self._source_of[index] = source
        self._tables[source].put(index, row, n_reads)

    def expect(self, index: int, n_reads: int) -> None:
        """Let a row that was put be read so many times, and then from its file."""
        self._tables[self._source_of[index]].expect(index, n_reads)

    def find(self, index: int) -> DrawnRow:
        """Say where a row is that can be read."""
        source = self._source_of[index]
        return DrawnRow(index, source, self._tables[source].find(index))

    def find_before(self, index: int) -> tuple[int, ...]:
        """Give the numbers of the rows that a row may be joined to: those drawn before it, the last one first.

        The same row of the epoch before is none of them.
        """
        own = self.find(index)
        before = range(index - 1, index - 1 - self.n_joined, -1)
        found = (self.find(other) for other in before if other in self._source_of)
        return tuple(row.index for row in found if (row.source, row.place) != (own.source, own.place))

    def drop(self, indices: Iterable[int]) -> None:
        """Forget rows; where others are joined to them, as soon as those are to be forgotten, too."""
        if not self.n_joined:
            for index in indices:
                self._forget(index)
            return
        for index in indices:
            self._given_up.add(index)
            # It is read neither for itself any more, nor the one before it for it.
            for other in (index, index - 1):
                if other in self._source_of:
                    self._tables[self._source_of[other]].forgo(other)
            near = range(index - self.n_joined, index + 1)
            for other in near:
                if other in self._source_of and self._are_given_up(other, other + self.n_joined):
                    self._forget(other)
            for other in self._given_up.intersection(range(index - self.n_joined, index + self.n_joined + 1)):
                if not any(known in self._source_of for known in range(other - self.n_joined, other + 1)):
                    self._given_up.discard(other)

    def _are_given_up(self, first: int, last: int) -> bool:
        return all(index in self._given_up for index in range(first, last + 1))

    def _forget(self, index: int) -> None:
        self._tables[self._source_of.pop(index)].drop([index])

    def mark(self, index: int) -> RowMark:
        """Return what a row's file is known by; files are numbered one source after the other."""
        source = self._source_of[index]
        mark = self._tables[source].mark(index)
        n_before = sum(len(table.stream.files) for table in self._tables[:source])
        return attrs.evolve(mark, index=n_before + mark.index)

    def __len__(self) -> int:
        """Count the rows that can be read."""
        return len(self._source_of)


def draw_rows(rows: RowDataset) -> DrawnRows:
    """Let the rows of streams be read as they are drawn.

    Args:
        rows: The first rows of a stream or of several, which have all of them (`RowDataset.streams`).
    """
    tables = [DrawnTable(stream) for stream in rows.streams]
    source_of: dict[int, int] = {}
    if not isinstance(rows, MixedRows):
        drawn = attrs.evolve(rows, table=tables[0], indices=NUMBERS)
        return DrawnRows(rows=drawn, is_mixture=False, weights=None, tables=tables, source_of=source_of)
    parts = [attrs.evolve(part, table=table, indices=NUMBERS) for part, table in zip(rows.parts, tables, strict=True)]
    mixed = DrawnMixedRows(
        name=rows.name,
        table=rows.table,
        indices=NUMBERS,
        parts=parts,
        mixture=rows.mixture,
        source_of=source_of,
    )
    mixture = rows.mixture
    weights = None if mixture is None else mixture.weights
    is_mixture = mixture is not None
    return DrawnRows(rows=mixed, is_mixture=is_mixture, weights=weights, tables=tables, source_of=source_of)
