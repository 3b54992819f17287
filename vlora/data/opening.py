"""Rows that a recipe names, or that a program has, as those to train on and those to validate on.

Where the rows come from is `vlora.data.readers.sources`' matter. What can be said of a recipe without reading is said
without it.
"""

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import attrs

from ..errors import RecipeError, SampleError, SplitError
from ..recipe.schema import DataSection
from ..system.files import expand
from ..system.globs import find_files, is_pattern, list_files
from .format.samples import Preferences, Reading
from .held_out import hold_out
from .mixed_rows import mix_rows
from .readers.digits import BUILTIN_DIGITS, check_question, load_digit_rows
from .readers.table import Table, columns_in, fills_gaps, join_tables, kinds_in
from .rows import RowDataset
from .splits import SplitPart, parse_split
from .values import Row


def check_paths(data: DataSection) -> None:
    """Check that the data which a recipe names is there, without `datasets`; `read_rows` would raise the same errors.

    Raises:
        RecipeError: The built-in rows have no such split or question, or a path leads to no file that is read.
    """
    for key, path, split in _sources(data):
        for part in split:
            if path == BUILTIN_DIGITS:
                check_question(part.name, data.config, _split_key(key))
                continue
            from .readers.sources import check_path

            with naming(key, path, part.name):
                for file in find_files(path) if is_pattern(path) else [path]:
                    check_path(file)


def read_rows(
    data: DataSection, *, seed: int = 0, preferences: Preferences | None = None
) -> tuple[RowDataset, RowDataset | None]:
    """Read the training rows, and the validation rows if the recipe names any.

    Args:
        data: The recipe's section.
        seed: Fixes which rows `valid_fraction` holds out.
        preferences: What rows have beside one answer; see `Reading`.

    Raises:
        RecipeError: There is no such data set, split or file, or it is empty.
        SampleError: Too few rows are there to hold some out, and one of them cannot be read.
    """
    commit = find_commit(data)
    pinned = data if commit is None else attrs.evolve(data, revision=commit)
    found = [load_split(pinned, path, split, key) for key, path, split in _sources(data)]
    train, *valid = [rows.with_preferences(preferences) for rows in found]
    train = attrs.evolve(train, commit=commit)
    return (train, valid[0]) if valid else hold_out(train, data.valid_fraction, seed)


def read_other_rows(data: DataSection, *, preferences: Preferences | None = None) -> RowDataset:
    """Read the rows of `data.valid_path`, which is given; errors and arguments as for `read_rows`."""
    path, split = _find_other(data)
    return load_split(data, path, split, "data.valid_path").with_preferences(preferences)


def find_commit(data: DataSection) -> str | None:
    """Find the commit that a version of a hub data set is; None of what is no such data set, and where none is known.

    Raises:
        RecipeError: A version or a configuration is named of what has none.
    """
    path = data.path or ""
    with naming("data.path", path, data.split):
        is_local = path == BUILTIN_DIGITS or is_pattern(path) or expand(path).exists()
    if data.revision is not None and is_local:
        what = "the built-in rows" if path == BUILTIN_DIGITS else f"{path!r}, which lies here"
        msg = f"found {data.revision!r} together with {what}: only a hub id has versions; leave it out"
        raise RecipeError(msg, key="data.revision")
    if data.config is not None and is_local and path != BUILTIN_DIGITS:
        from .readers.sources import has_configurations

        if is_pattern(path) or not has_configurations(expand(path)):
            msg = f"found {data.config!r} together with {path!r}, whose files have no configurations; leave it out"
            raise RecipeError(msg, key="data.config")
    if is_local:
        return None
    from .readers.hub import find_commit
    from .readers.sources import check_path

    with naming("data.path", path, data.split):
        check_path(path)
        return find_commit(path, data.revision)


def wrap_rows(
    data: DataSection,
    rows: Iterable[Row],
    valid_rows: Iterable[Row] | None = None,
    *,
    seed: int = 0,
    preferences: Preferences | None = None,
) -> tuple[RowDataset, RowDataset | None]:
    """Give rows that a program has as those to train on, and as those to validate on.

    Args:
        data: The recipe's section; what it says of where rows are (`path`, `split`, `valid_path`, `valid_split`,
            `config`) is not read. Relative image paths begin in `image_root`, or in the working directory.
        rows: Dicts as `format_sample` takes them, or a `datasets.Dataset`.
        valid_rows: The same to validate on; without them `valid_fraction` holds out a share of `rows`.
        seed: Fixes which rows that are.
        preferences: As for `read_rows`.

    Raises:
        RecipeError: There are no rows, or they lack a column that `data.columns` names.
        SampleError: A row is no dict.
    """
    train = _wrap(data, rows, "rows").with_preferences(preferences)
    if valid_rows:
        return train, _wrap(data, valid_rows, "valid_rows").with_preferences(preferences)
    return hold_out(train, data.valid_fraction, seed)


def _wrap(data: DataSection, rows: Iterable[Row], name: str) -> RowDataset:
    if isinstance(rows, (str, bytes, Path, Mapping)):
        remedy = "set data.path to read a file" if not isinstance(rows, Mapping) else "give a list of dicts, one a row"
        msg = f"{name}: found a value of type {type(rows).__name__}; {remedy}"
        raise RecipeError(msg)
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):
        msg = f"{name}: found a value of type {type(rows).__name__}; give its rows, to_dict('records')"
        raise RecipeError(msg)
    is_table = hasattr(rows, "__getitem__") and hasattr(rows, "__len__")
    table = cast("Table", rows) if is_table else list(rows)
    if not len(table):
        msg = f"{name}: found none; give a list of dicts"
        raise RecipeError(msg)
    for index, row in enumerate(table) if isinstance(table, (list, tuple)) else ():
        if not isinstance(row, Mapping):
            msg = f"{name} row {index}: found a value of type {type(row).__name__}, expected a dict"
            raise SampleError(msg)
    return make_dataset(data, name, name, table, range(len(table)), None)


def _sources(data: DataSection) -> Iterator[tuple[str, str, tuple[SplitPart, ...]]]:
    """Yield (key, path, split) of the rows to train on, then of those to validate on if they are read by themselves."""
    split, path = parse_key("data.split", data.split), data.path or ""
    if len(split) > 1 and _has_one_split(path):
        msg = f"found {data.split!r}, {path!r} has a single split; name one slice of it"
        raise RecipeError(msg, key="data.split")
    yield "data.path", path, split
    if data.valid_path is not None:
        yield "data.valid_path", *_find_other(data)
    elif data.valid_split is not None:
        valid = parse_key("data.valid_split", data.valid_split)
        if _has_one_split(path) and (len(valid) > 1 or valid[0].is_whole):
            msg = (
                f"found {data.valid_split!r}, {path!r} has a single split, which is trained on; "
                "give data.valid_path or data.valid_fraction, or slices of it (train[:90%] and train[90%:])"
            )
            raise RecipeError(msg, key="data.valid_split")
        yield "data.valid_split", path, valid


def _find_other(data: DataSection) -> tuple[str, tuple[SplitPart, ...]]:
    """Give (path, split) of rows to validate on that are read by themselves."""
    path, split = data.valid_path or "", parse_key("data.split", data.split)
    # A slice is one of the rows to train on; other rows are all for validation.
    names = [part.name for part in split[: 1 if _has_one_split(path) else None]]
    return path, tuple(SplitPart(name) for name in dict.fromkeys(names))


def _split_key(key: str) -> str:
    """Name the key that says which split is read from where another key says."""
    return "data.valid_split" if key == "data.valid_split" else "data.split"


def _has_one_split(path: str) -> bool:
    """Whether all files belong to one split, of any name."""
    if path == BUILTIN_DIGITS:
        return False
    from .readers.sources import has_one_split

    return all(has_one_split(expand(file)) for file in list_files(path))


def parse_key(key: str, split: str) -> tuple[SplitPart, ...]:
    """Read which split, or rows of it, a key names.

    Raises:
        RecipeError: It is written otherwise.
    """
    try:
        return parse_split(split)
    except ValueError as error:
        msg = f"found {split!r}; {error}"
        raise RecipeError(msg, key=key) from None


def load_split(data: DataSection, path: str, split: tuple[SplitPart, ...], key: str) -> RowDataset:
    """Read the rows of a split, or of several.

    Raises:
        RecipeError: There is no such split, or no row.
    """
    if is_pattern(path):
        return _load_files(data, path, split, key)
    tables, indices, n_before = [], [], 0
    folder = None
    for part in split:
        # Other rows to validate on have versions of their own.
        table, folder = _open(path, part, data.config, key, None if key == "data.valid_path" else data.revision)
        chosen = part.choose(len(table))
        indices.append(range(n_before + chosen.start, n_before + chosen.stop))
        tables.append(table)
        n_before += len(table)
    name = "+".join(dict.fromkeys(part.name for part in split))
    if not any(indices):
        msg = f"{path!r} (split {'+'.join(map(str, split))!r}) has no rows"
        raise RecipeError(msg, key=key)
    all_indices = indices[0] if len(indices) == 1 else [index for part in indices for index in part]
    name = f"{Path(path).name} {name}" if path != name else path
    return make_dataset(data, path, name, join_tables(tables), all_indices, folder)


def _load_files(data: DataSection, path: str, split: tuple[SplitPart, ...], key: str) -> RowDataset:
    """Load the files of a pattern as one data set, each under its own name."""
    with naming(key, path, "+".join(map(str, split))):
        files = find_files(path)
    found: list[RowDataset] = []
    indices: list[range] = []
    for part in split:
        n_before = sum(map(len, found))
        found += [load_split(data, file, (SplitPart(part.name),), key) for file in files]
        chosen = part.choose(sum(map(len, found)) - n_before)
        indices.append(range(n_before + chosen.start, n_before + chosen.stop))
    if not any(indices):
        msg = f"{path!r} (split {'+'.join(map(str, split))!r}) has no rows"
        raise RecipeError(msg, key=key)
    every = indices[0] if len(indices) == 1 else [index for each in indices for index in each]
    return mix_rows(Path(path).name, found, indices=every, is_mixture=False)


def make_dataset(
    data: DataSection, path: str, name: str, table: Table, indices: Sequence[int], folder: Path | None
) -> RowDataset:
    """Let rows of a table be read as the recipe has it.

    Raises:
        RecipeError: They lack a column that `data.columns` names, or there is no `data.image_root`.
    """
    kinds = kinds_in(table)
    _check_columns(data, columns_in(table), path)
    return RowDataset(
        name=name,
        table=table,
        indices=indices,
        folder=folder if data.image_root is None else _find_folder(data.image_root),
        kinds=kinds,
        reading=Reading(
            custom_prompt_format=data.custom_prompt_format,
            columns=data.columns,
            system=data.system,
            kinds=kinds,
            fills_gaps=fills_gaps(table),
        ),
    )


def _open(path: str, part: SplitPart, config: str | None, key: str, revision: str | None) -> tuple[Table, Path | None]:
    if path == BUILTIN_DIGITS:
        return load_digit_rows(part.name, config, _split_key(key)), None
    # The readers of files and of the hub, which the built-in rows do without.
    from .readers.sources import check_path, open_source

    with naming(key, path, part.name):
        check_path(path)
        return open_source(path, part.name, config, revision)


@contextlib.contextmanager
def naming(key: str, path: str, split: str) -> Iterator[None]:
    """Add the name of the rows to an error."""
    try:
        yield
    except (OSError, ValueError, ImportError) as error:
        msg = f"cannot read {path!r} (split {split!r}): {error}{_suggest(expand(path))}"
        if isinstance(error, SplitError):
            raise SplitError(msg, error.splits, key=key) from None
        raise RecipeError(msg, key=key) from None


def _check_columns(data: DataSection, known: Sequence[str] | None, path: str) -> None:
    for column in data.columns:
        if known is not None and column not in known:
            near = difflib.get_close_matches(column, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
            msg = f"{path!r} has no such column; {hint}"
            raise RecipeError(msg, key=f"data.columns.{column}")


def _find_folder(name: str) -> Path:
    folder = expand(name)
    try:
        is_there = folder.is_dir()
    except (OSError, ValueError):
        is_there = False
    if not is_there:
        msg = f"there is no folder {name!r}{_suggest(folder)}; name the one where image paths begin"
        raise RecipeError(msg, key="data.image_root")
    return folder


def _suggest(path: Path) -> str:
    """Name the file or folder that may have been meant, where there is none of that name."""
    try:
        # Without the endings, in which most files of a folder are alike.
        files = {} if path.exists() else {file.stem: file for file in path.parent.iterdir()}
    except OSError:
        return ""
    near = difflib.get_close_matches(path.stem, files, n=1)
    return f"; did you mean {str(files[near[0]])!r}?" if near else ""
