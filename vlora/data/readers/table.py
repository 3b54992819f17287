"""Tables: rows by number, and concatenations of several tables.

A table may declare its columns (`columns`), their kinds (`kinds`), whether objects have None for missing keys
(`fills_gaps`) and where its rows stand (`place`, `line`); a list of rows declares nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import attrs
import numpy as np
import numpy.typing as npt

from ..values import Row


class Table(Protocol):
    """Rows by number; a `datasets.Dataset` is one, and so is a list."""

    def __len__(self) -> int:
        """Count the rows."""

    def __getitem__(self, index: int) -> Row:
        """Read a row."""


def kinds_in(table: Table) -> Mapping[str, str]:
    """Return the declared kinds of a table's columns, see `kind_of`; empty if it declares none."""
    return getattr(table, "kinds", {})


def place_in(table: Table, index: int) -> tuple[str, Path | None] | None:
    """Name a row, and give the folder where its image paths begin; None of a table that does not know them."""
    place: Callable[[int], tuple[str, Path | None]] | None = getattr(table, "place", None)
    return None if place is None else place(index)


def line_in(table: Table, index: int) -> str | None:
    """Say on which line of its file a row begins; None of a table whose rows are no text."""
    if isinstance(table, JoinedTable):
        return line_in(*table.find(index))
    line: Callable[[int], str | None] | None = getattr(table, "line", None)
    return None if line is None else line(index)


def columns_in(table: Table) -> Sequence[str] | None:
    """Return the columns that all rows of a table have; None if that is not known without reading all."""
    columns: Sequence[str] | None = getattr(table, "columns", None)
    return columns


def fills_gaps(table: Table) -> bool:
    """Whether a table's objects have None under keys that only other objects of the column have, as in Arrow."""
    return any(getattr(part, "fills_gaps", False) for part in parts_of(table))


def names_images(table: Table) -> bool:
    """Whether rows are the metadata of a folder of images, which may leave some of them out."""
    return any(hasattr(part, "named_by") for part in parts_of(table))


@attrs.frozen(eq=False)
class JoinedTable:
    """A concatenation of tables.

    Attributes:
        tables: The tables.
    """

    tables: Sequence[Table]
    _ends: npt.NDArray[np.int64] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """Compute where each table ends."""
        object.__setattr__(self, "_ends", np.cumsum([len(table) for table in self.tables]))

    def __len__(self) -> int:
        """Count the rows."""
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Row:
        """Read a row."""
        table, own = self.find(index)
        return table[own]

    def find(self, index: int) -> tuple[Table, int]:
        """Find the table of a row, and its number there."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self.tables[number], index - int(self._ends[number]) + len(self.tables[number])

    @property
    def kinds(self) -> Mapping[str, str]:
        """Kinds of the columns."""
        return {column: kind for table in reversed(self.tables) for column, kind in kinds_in(table).items()}

    @property
    def columns(self) -> Sequence[str] | None:
        """The columns of all tables; None if one does not declare its columns."""
        columns = [columns_in(table) for table in self.tables]
        known = [found for found in columns if found is not None]
        return [*dict.fromkeys(column for found in known for column in found)] if len(known) == len(columns) else None


def join_tables(tables: Sequence[Table]) -> Table:
    """Concatenate tables."""
    return tables[0] if len(tables) == 1 else JoinedTable(tables)


def parts_of(table: Table) -> Iterator[Table]:
    """Yield the tables that a table was joined from; the table itself if it was not joined."""
    for part in table.tables if isinstance(table, JoinedTable) else ():
        yield from parts_of(part)
    if not isinstance(table, JoinedTable):
        yield table
