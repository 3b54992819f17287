"""Folders of images: with metadata beside them, or with a folder for every class."""

import contextlib
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import attrs

from ...errors import SampleError
from ...facts import UnnamedImages
from ..values import Row
from .csv_files import open_csv
from .json_files import open_json
from .table import Table, columns_in, join_tables, kinds_in, parts_of

METADATA = ("metadata.jsonl", "metadata.csv")
"""Names of metadata files for the images of their folder."""
MOST_NAMED = 20_000
"""Most rows of metadata that are read to find images that none of them names."""
_NAME_ENDINGS = {"file_name": "image", "file_names": "images"}


@attrs.frozen
class FolderFile:
    """A file of a folder, an archive or a repository.

    Attributes:
        name: Its path there, with slashes.
        path: Its path on this machine.
    """

    name: str
    path: Path


@attrs.frozen(eq=False)
class ClassTable:
    """Images, each with the name of the folder that holds it.

    Attributes:
        files: The images.
        depth: Number of leading folders that are not classes; -1 if there are no classes.
    """

    files: Sequence[FolderFile]
    depth: int

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.files)

    def __getitem__(self, index: int) -> Row:
        """Return an image and its label; without a label if it lies beside the folders of classes."""
        file = self.files[index]
        folders = _folders_of(file.name)
        label = {"label": folders[-1]} if 0 <= self.depth < len(folders) else {}
        return {"image": str(file.path), **label}

    @property
    def kinds(self) -> Mapping[str, str]:
        """Kinds of the columns."""
        return {"image": "image"} if self.depth < 0 else {"image": "image", "label": "label"}

    @property
    def columns(self) -> Sequence[str]:
        """The columns of the rows."""
        return [*self.kinds]


@attrs.frozen(eq=False)
class DescribedTable:
    """The rows of a metadata file, with the images that they name.

    Attributes:
        table: The rows of the file.
        file: The file.
        paths: Paths of all files of the folder.
        is_complete: Whether the folder has no other files.
    """

    table: Table
    file: FolderFile
    paths: Mapping[str, Path]
    is_complete: bool

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.table)

    def __getitem__(self, index: int) -> Row:
        """Read a row: `file_name` becomes `image`, `file_names` `images`, and likewise with a name before it.

        Raises:
            SampleError: It names an image that does not exist, or its column has the name of another one.
        """
        row: Row = self._read(self.table[index])
        return row

    @property
    def kinds(self) -> Mapping[str, str]:
        """Kinds of the columns; those with images are found by the names of the first row."""
        declared = kinds_in(self.table)
        try:
            names = [*declared] if declared or not len(self.table) else [*self.table[0]]
        except SampleError:
            names = []
        kinds = {_column_of(name): declared.get(name, "") for name in names}
        images = {_column_of(name): "image" for name in names if _column_of(name) != name}
        return {column: kind for column, kind in (kinds | images).items() if kind}

    @property
    def columns(self) -> Sequence[str] | None:
        """The columns of the rows, if the file has them before its rows."""
        columns = columns_in(self.table)
        return None if columns is None else [_column_of(column) for column in columns]

    def _read(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._read(item) for item in value]
        if not isinstance(value, Mapping):
            return value
        read: dict[str, Any] = {}
        for name, inner in value.items():
            column = _column_of(name)
            if column in read or (column != name and column in value):
                msg = f"{name!r} and another column both stand for {column!r}; rename one"
                raise SampleError(msg)
            read[column] = self._read(inner) if column == name else self._find(inner)
        return read

    def named_by(self, index: int) -> Iterator[str]:
        """Yield the files that a row may name, as in `paths`; none for a row that cannot be read."""
        with contextlib.suppress(SampleError):
            yield from self._names_in(self.table[index])

    def _names_in(self, value: Any) -> Iterator[str]:
        # In any column: images may have a column of their own, too.
        for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
            yield from self._names_in(inner)
        if isinstance(value, str) and (name := self._place(value)) in self.paths:
            yield name

    def _place(self, named: str) -> str:
        return posixpath.normpath(posixpath.join(posixpath.dirname(self.file.name), named))

    def _find(self, named: Any) -> Any:
        if isinstance(named, list):
            return [self._find(name) for name in named]
        if not isinstance(named, str) or not named:
            return named
        name = self._place(named)
        if name not in self.paths and self.is_complete:
            msg = f"there is no file {named!r} beside {posixpath.basename(self.file.name)}"
            raise SampleError(msg)
        return str(self.paths.get(name, name))


def open_images(
    splits: Mapping[str, Sequence[str]], files: Sequence[FolderFile], *, is_complete: bool, with_labels: bool
) -> Table:
    """Read the rows of a folder of images.

    Args:
        splits: Names of the images of all splits: where classes begin is the same for all of them.
        files: The images and metadata of the split that is wanted.
        is_complete: Whether rows may name no image but these.
        with_labels: Whether the names of folders are labels.

    Raises:
        ValueError: A metadata file cannot be read.
        OSError: Likewise.
    """
    metadata = [file for file in files if posixpath.basename(file.name) in METADATA]
    if metadata:
        paths = {file.name: file.path for file in files}
        return join_tables(
            [DescribedTable(_open_metadata(file), file, paths, is_complete=is_complete) for file in metadata]
        )
    folders = {name: {_folders_of(image) for image in images} for name, images in splits.items() if images}
    depth = min((_common_depth(found) for found in folders.values()), default=-1)
    # A single folder is not a class: it may be the split's, within folders of classes.
    labels = [{found[-1] for found in split if len(found) > depth} for split in folders.values()]
    return ClassTable(files, depth if with_labels and max(map(len, labels), default=0) > 1 else -1)


def find_unnamed(table: Table) -> UnnamedImages | None:
    """Count the images of a folder that its metadata does not name, and name one; None if it names all."""
    tables = [part for part in parts_of(table) if isinstance(part, DescribedTable)]
    images = {name for part in tables for name in part.paths if posixpath.basename(name) not in METADATA}
    n_rows = sum(map(len, tables))
    if n_rows > MOST_NAMED:
        # More rows are not read before the first step.
        return UnnamedImages(n_images=len(images), n_rows=n_rows, n_unnamed=None) if len(images) > n_rows else None
    named = {name for part in tables for index in range(len(part)) for name in part.named_by(index)}
    left = sorted(images - named)
    if not left:
        return None
    first = posixpath.relpath(left[0], posixpath.dirname(tables[0].file.name))
    return UnnamedImages(n_images=len(images), n_rows=n_rows, n_unnamed=len(left), first=first)


def _open_metadata(file: FolderFile) -> Table:
    name = posixpath.basename(file.name)
    return open_csv(file.path, name=name) if name.endswith(".csv") else open_json(file.path, name=name)


def _column_of(name: str) -> str:
    """Return the column of images for a metadata column of file names."""
    for ending, column in _NAME_ENDINGS.items():
        if name == ending:
            return column
        if name.endswith(f"_{ending}"):
            return name.removesuffix(f"_{ending}")
    return name


def _folders_of(name: str) -> tuple[str, ...]:
    return PurePosixPath(name).parts[:-1]


def _common_depth(folders: set[tuple[str, ...]]) -> int:
    first, last = min(folders), max(folders)
    pairs = enumerate(zip(first, last, strict=False))
    return next((depth for depth, (one, other) in pairs if one != other), min(len(first), len(last)))
