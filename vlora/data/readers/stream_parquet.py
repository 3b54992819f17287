"""Parquet as a stream: rows are read by groups, the unit in which the file has them, and kept as they are stored."""

import contextlib
import functools
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

import attrs

from ...errors import SampleError
from ..values import Row
from .stream import Found
from .stream_files import StreamFile
from .typed_tables import kind_of, readers_of

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROWS_AT_ONCE = 64
"""Rows that are unpacked together."""

BUFFER_BYTES = 1 << 20
"""Bytes of each column that are read together, instead of all that a group has of it."""

KEPT_GROUPS = 2
_READING = threading.Lock()


@attrs.frozen(eq=False)
class ParquetReader:
    """The rows of a Parquet file.

    Attributes:
        file: The file.
        kinds: Kinds of its columns.
        readers: Column to a function that converts stored values, where they are converted.
        starts: The number of each group's first row, and the number of all rows.
    """

    file: StreamFile
    kinds: Mapping[str, str]
    readers: Mapping[str, Callable[[Any], Any]]
    starts: tuple[int, ...]

    def find(self, first: Found | None = None, *, keeps: bool = True) -> Iterator[Found]:
        """Yield the rows. Where nothing is kept of them, what the file says of its groups is enough to find them."""
        first = first or Found(0, 0)
        if not keeps:
            for group in range(first.offset, len(self.starts) - 1):
                numbers = range(max(first.number, self.starts[group]), self.starts[group + 1])
                yield from (Found(number, group) for number in numbers)
            return
        with self.file.open() as file:
            opened = _open(file)
            for group in range(first.offset, len(self.starts) - 1):
                number = self.starts[group]
                for batch in opened.iter_batches(ROWS_AT_ONCE, row_groups=[group]):
                    skipped = max(0, min(batch.num_rows, first.number - number))
                    rows = batch.slice(skipped).to_pylist()
                    for index, row in enumerate(rows, number + skipped):
                        yield Found(index, group, row)
                    number += batch.num_rows

    def keep(self, number: int, offset: int) -> Any:
        """Read a row as it is stored.

        Raises:
            ValueError: It cannot be read, or the file has changed and does not have it any more.
        """
        rows = []
        if offset + 1 < len(self.starts):
            rows = _read_group(self.file, offset).slice(number - self.starts[offset], 1).to_pylist()
        if not rows:
            msg = f"row {number:,} of {self.file.name} cannot be read, or is not there any more"
            raise ValueError(msg)
        return rows[0]

    def read(self, number: int, offset: int, kept: Any = None) -> Row:
        """Read a row.

        Raises:
            SampleError: A value is invalid: a label without a name, an impossible date, broken JSON.
        """
        try:
            row: dict[str, Any] = kept or self.keep(number, offset)
            return row | {column: read(row[column]) for column, read in self.readers.items() if row[column] is not None}
        except (ValueError, OverflowError) as error:
            msg = f"row {number:,} of {self.file.name}: cannot read the values: {error}; mend the row or leave it out"
            raise SampleError(msg) from None


def open_parquet(file: StreamFile) -> ParquetReader:
    """Read what a Parquet file says of itself.

    Raises:
        ValueError: It is no Parquet file.
        OSError: It cannot be read.
    """
    import datasets

    with file.open() as opened:
        parquet = _open(opened)
        features: Mapping[str, Any] = datasets.Features.from_arrow_schema(parquet.schema_arrow)
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    kinds = {column: kind_of(feature) for column, feature in features.items()}
    return ParquetReader(file, kinds, readers_of(features), tuple(itertools.accumulate(sizes, initial=0)))


def _open(file: BinaryIO) -> "pq.ParquetFile":
    import pyarrow.parquet as pq

    return pq.ParquetFile(file, buffer_size=BUFFER_BYTES, pre_buffer=False)


def _read_group(file: StreamFile, group: int) -> "pa.Table":
    """Read a group; the last ones are kept, since rows of one are asked for one after another, by several threads."""
    with _READING:
        return _read_group_once(file, group)


@functools.lru_cache(maxsize=KEPT_GROUPS)
def _read_group_once(file: StreamFile, group: int) -> "pa.Table":
    """Read a group up to where it is damaged: the rows before are good, as `find` gives them."""
    import pyarrow as pa

    batches: list[pa.RecordBatch] = []
    with file.open() as opened:
        parquet = _open(opened)
        with contextlib.suppress(ValueError):
            batches.extend(parquet.iter_batches(ROWS_AT_ONCE, row_groups=[group]))
        return pa.Table.from_batches(batches, parquet.schema_arrow)
