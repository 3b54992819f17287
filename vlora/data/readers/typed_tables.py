"""Rows of typed tables (Parquet, Arrow, saved data sets) as they are stored: nothing in them is decoded.

Images, sounds, videos and documents stay bytes and paths until they are opened, so an unused column costs nothing, and
a broken value is an error of one row. Class labels become their names.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from ...errors import SampleError
from ...system.written_json import WrittenFloat, parse_json
from ..values import Row
from .table import Table, columns_in, kinds_in

if TYPE_CHECKING:
    import datasets

_Read = Callable[[Any], Any]
_SHORT_FLOATS: Mapping[str, type[np.floating[Any]]] = {"float16": np.float16, "float32": np.float32}
_BYTES = ("binary", "large_binary", "binary_view")


@attrs.frozen(eq=False)
class LabelledTable:
    """Rows of text files whose data set declares class labels for columns.

    Attributes:
        table: The rows, with names or numbers of labels.
        names: Names of the labels of such columns.
        kinds: Kinds of the columns.
    """

    table: Table
    names: Mapping[str, Sequence[str]]
    kinds: Mapping[str, str]

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.table)

    def __getitem__(self, index: int) -> Row:
        """Read a row.

        Raises:
            SampleError: A value is not a label, or a label has no name.
        """
        row = self.table[index]
        try:
            return {column: self._read(column, value) for column, value in row.items()}
        except ValueError as error:
            msg = f"cannot read the values: {error}; mend the row or leave it out"
            raise SampleError(msg) from None

    @property
    def columns(self) -> Sequence[str] | None:
        """The columns of the rows."""
        return columns_in(self.table)

    def _read(self, column: str, value: Any) -> Any:
        names = self.names.get(column, ())
        if column not in self.names or value in (None, "") or value in names:
            return value
        try:
            number = int(value)
            is_number = isinstance(value, str) or number == value
        except (TypeError, ValueError, OverflowError):
            is_number = False
        if not is_number:
            msg = f"found {value!r} in the column {column!r}, expected the name or the number of a class label"
            raise ValueError(msg)
        return _name_label(number, names)


def declare(table: Table, features: Mapping[str, Any] | None) -> Table:
    """Apply the labels and kinds that a data set declares for its columns to a file's rows."""
    if not features:
        return table
    names = {
        column: [str(name) for name in feature.names]
        for column, feature in features.items()
        if type(feature).__name__ == "ClassLabel"
    }
    kinds = {column: kind_of(feature) for column, feature in features.items()}
    return LabelledTable(table, names, {**kinds_in(table), **kinds})


@attrs.frozen(eq=False)
class TypedTable:
    """The rows of a `datasets.Dataset`.

    Attributes:
        stored: The Arrow table.
        kinds: Column to its kind, see `kind_of`.
        readers: Column to a function that converts stored values, where they are converted.
        fills_gaps: See `vlora.data.readers.table.fills_gaps`.
    """

    stored: "datasets.Dataset"
    kinds: Mapping[str, str]
    readers: Mapping[str, _Read]
    fills_gaps: bool = True

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.stored)

    def __getitem__(self, index: int) -> Row:
        """Read a row.

        Raises:
            SampleError: A value is invalid: a label without a name, an impossible date, broken JSON.
        """
        try:
            row: dict[str, Any] = self.stored[index].to_pylist()[0]
            return row | {column: read(row[column]) for column, read in self.readers.items() if row[column] is not None}
        except (ValueError, OverflowError) as error:
            msg = f"cannot read the values: {error}; mend the row or leave it out"
            raise SampleError(msg) from None

    @property
    def columns(self) -> Sequence[str]:
        """The columns of the rows."""
        return [*self.kinds]


def open_table(table: "datasets.Dataset") -> TypedTable:
    """Read a data set's rows as they are stored; `Dataset.cast` would rewrite all of it."""
    features: Mapping[str, Any] = table.features
    readers = readers_of(features)
    kinds = {column: kind_of(feature) for column, feature in features.items()}
    return TypedTable(table.with_format("arrow"), kinds, readers)


def readers_of(features: Mapping[str, Any]) -> dict[str, _Read]:
    """Make the functions that convert stored values, by column; columns that need no conversion have none."""
    return {column: read for column, feature in features.items() if (read := _reader_of(feature)) is not None}


def kind_of(feature: Any) -> str:
    """Return the kind of a column.

    Returns:
        "image", "audio", "video", "pdf" or another thing that `datasets` would decode, at whatever depth it stands;
        otherwise "label", "text", "bytes", "json", "list", "object", or the name of the type.
    """
    decoded = [leaf for leaf in _leaves(feature) if hasattr(leaf, "decode") and type(leaf).__name__ != "Json"]
    if decoded:
        return type(decoded[0]).__name__.lower()
    name = type(feature).__name__
    if name in ("ClassLabel", "Json"):
        return {"ClassLabel": "label", "Json": "json"}[name]
    if name == "Value":
        dtype = str(feature.dtype)
        return "text" if "string" in dtype else "bytes" if dtype in _BYTES else dtype
    return "object" if isinstance(feature, dict) else "list" if _item_of(feature) is not None else name.lower()


def _leaves(feature: Any) -> list[Any]:
    if isinstance(feature, dict):
        return [leaf for value in feature.values() for leaf in _leaves(value)]
    item = _item_of(feature)
    return [feature] if item is None else _leaves(item)


def _item_of(feature: Any) -> Any:
    """Return the feature of a list's items; None if it is not a list."""
    return feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)


def _reader_of(feature: Any) -> _Read | None:
    """Make the function that converts stored values of a feature; None if they need no conversion."""
    name = type(feature).__name__
    if name == "ClassLabel":
        return lambda value: _name_label(value, feature.names)
    if name == "Json":
        return lambda value: parse_json(value) if isinstance(value, str) else value
    if name == "Value" and str(feature.dtype) in _SHORT_FLOATS:
        kind = _SHORT_FLOATS[str(feature.dtype)]
        return lambda value: WrittenFloat(str(kind(value))) if math.isfinite(kind(value)) else value
    if isinstance(feature, dict):
        fields = {key: read for key, value in feature.items() if (read := _reader_of(value)) is not None}
        return (lambda value: _read_fields(value, fields)) if fields else None
    item = _item_of(feature)
    read = None if item is None else _reader_of(item)
    if read is None:
        return None
    return lambda value: [inner if inner is None else read(inner) for inner in value]


def _read_fields(value: Mapping[str, Any], fields: Mapping[str, _Read]) -> dict[str, Any]:
    return {key: fields[key](inner) if key in fields and inner is not None else inner for key, inner in value.items()}


def _name_label(number: int, names: Sequence[str]) -> str | None:
    """Return a label's name; `datasets` writes -1 for a missing label."""
    if number == -1:
        return None
    if not 0 <= number < len(names):
        msg = f"there is no class label {number}, they go from 0 to {len(names) - 1}"
        raise ValueError(msg)
    return str(names[number])
