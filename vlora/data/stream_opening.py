"""Rows that a recipe streams, as those to train on and those to validate on: no file is read through."""

import sys

import attrs

from ..errors import RecipeError
from ..recipe.schema import DataSection
from .format.samples import Preferences
from .opening import find_commit, load_split, make_dataset, naming, parse_key
from .readers.stream import RowStream
from .readers.stream_files import find_local
from .readers.stream_kinds import check_stream, find_files, is_read_by_number, reader_for
from .readers.stream_tables import PlacesTable
from .rows import RowDataset
from .splits import SplitPart

HEAD_ROWS = 1024
"""First rows of a stream that can be asked for by their numbers: for what shows or measures rows and trains nothing."""

_START = "found {found!r}; a stream is cut at its beginning only, as in train[100:], or not at all"
_SINGLE = (
    "found {found!r}, {path!r} has a single split, which is trained on; give data.valid_path, or hold the first rows "
    'out with data.split = "train[100:]" and data.valid_split = "train[:100]"'
)
_FIRST = "found {found!r}; of a stream the first rows are held out, as in train[:100]"


def check_streams(data: DataSection) -> None:
    """Check that the files which a section streams are there; reading them would raise the same errors.

    Raises:
        RecipeError: They are not, or of a kind that is not streamed.
    """
    for key, path in (("data.path", data.path), ("data.valid_path", data.valid_path)):
        if path is not None and (key == "data.path" or not is_read_by_number(path)):
            with naming(key, path, data.split):
                check_stream(path)


def read_streams(
    data: DataSection, preferences: Preferences | None = None, *, most: int | None = None
) -> tuple[RowDataset, RowDataset | None]:
    """Open the stream of the training rows, and read the places of the validation rows if the recipe names any.

    Args:
        data: The recipe's section.
        preferences: As for `read_rows`.
        most: How many rows are used at most, the first ones behind those that are left out; None for all.

    Returns:
        The first rows of the stream, which has all (`RowDataset.stream`), and the rows to validate on.

    Raises:
        RecipeError: There is no such file or split, or no row; or a slice of a stream cannot be had.
    """
    split, path = _parse_one("data.split", data.split), data.path or ""
    commit = find_commit(data)
    pinned = data if commit is None else attrs.evolve(data, revision=commit)
    if split.last is not None or not (split.first or "0").isdecimal():
        raise RecipeError(_START.format(found=data.split), key="data.split")
    n_left_out = int(split.first or 0)
    stream = _cut(_open(pinned, path, split.name, "data.path"), data, n_left_out, most)
    train = attrs.evolve(_make(pinned, path, stream, HEAD_ROWS), commit=commit, stream=stream)
    valid = _open_valid(pinned, split, attrs.evolve(stream, first=None, end=None), n_left_out)
    return train.with_preferences(preferences), None if valid is None else valid.with_preferences(preferences)


def _cut(stream: RowStream, data: DataSection, n_left_out: int, most: int | None) -> RowStream:
    """Leave out the first rows, and those behind the ones that are used."""
    if n_left_out:
        places = stream.head(n_left_out + 1)
        if len(places) <= n_left_out:
            msg = f"found {data.split!r}, and {data.path!r} has {len(places)} rows, which leaves none"
            raise RecipeError(msg, key="data.split")
        stream = attrs.evolve(stream, first=places[n_left_out])
    if most is not None:
        places = stream.head(most + 1)
        stream = attrs.evolve(stream, end=places[most] if len(places) > most else None)
    return stream


def _open_valid(data: DataSection, split: SplitPart, stream: RowStream, n_left_out: int) -> RowDataset | None:
    path = data.path or ""
    if data.valid_path is not None:
        return _read_other(data, split)
    if data.valid_split is None:
        return None
    valid = _parse_one("data.valid_split", data.valid_split)
    if valid.name != split.name:
        if not valid.is_whole:
            raise RecipeError(_FIRST.format(found=data.valid_split), key="data.valid_split")
        if find_local(path) is not None:
            raise RecipeError(_SINGLE.format(found=data.valid_split, path=path), key="data.valid_split")
        return _make(data, path, _open(data, path, valid.name, "data.valid_split"), None)
    last = valid.last or ""
    n_rows = int(last) if valid.first in (None, "0") and last.isdecimal() else 0
    if not n_rows:
        raise RecipeError(_FIRST.format(found=data.valid_split), key="data.valid_split")
    if n_left_out < n_rows:
        msg = (
            f"found {data.valid_split!r}, whose rows would be trained on, too; set "
            f"data.split = '{split.name}[{n_rows}:]'"
        )
        raise RecipeError(msg, key="data.valid_split")
    return _make(data, path, stream, n_rows)


def read_other_stream(data: DataSection, preferences: Preferences | None = None) -> RowDataset:
    """Read the places of the rows of `data.valid_path`, which is given; errors as for `read_streams`."""
    split, *_ = parse_key("data.split", data.split)
    return _read_other(data, split).with_preferences(preferences)


def _read_other(data: DataSection, split: SplitPart) -> RowDataset:
    path = data.valid_path or ""
    if is_read_by_number(path):
        return load_split(data, path, (SplitPart(split.name),), "data.valid_path")
    other = _open(attrs.evolve(data, revision=None), path, split.name, "data.valid_path")
    return _make(data, path, other, None)


def _open(data: DataSection, path: str, split: str, key: str) -> RowStream:
    with naming(key, path, split):
        files = find_files(path, split, data.config, data.revision)
        open_reader = reader_for(files)
        return RowStream(files=files, open_reader=open_reader, fills_gaps=files[0].name.endswith(".parquet"))


def _make(data: DataSection, path: str, stream: RowStream, n_rows: int | None) -> RowDataset:
    """Give the first rows of a stream; all of them if no number is given."""
    key = "data.path" if path == data.path else "data.valid_path"
    with naming(key, path, data.split):
        places = stream.head(sys.maxsize if n_rows is None else n_rows)
        if not places:
            msg = "it has no rows"
            raise ValueError(msg)
        table = PlacesTable(stream, places)
        return make_dataset(data, path, path.rpartition("/")[2] or path, table, range(len(places)), None)


def _parse_one(key: str, text: str) -> SplitPart:
    parts = parse_key(key, text)
    if len(parts) > 1:
        msg = f"found {text!r}; a stream has one split, name one"
        raise RecipeError(msg, key=key)
    return parts[0]
