"""Opens sources of rows: files, folders, saved data sets, repositories of the hub.

Text files are read here as they are written; Hugging Face `datasets` reads typed ones only, and lists the files of a
split. Importing it, with pandas, takes most of a second, so only functions that need it import it.
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import SplitError
from ...system.files import expand
from ..format.lookalikes import SUFFIXES
from .captioned_folders import has_captions, open_captions
from .csv_files import CSV_SUFFIXES, open_csv
from .hub import find_repository
from .image_folders import METADATA, FolderFile, open_images
from .json_files import JSON_SUFFIXES, has_splits, open_json
from .table import Table, join_tables
from .typed_tables import declare, open_table

TYPED_SUFFIXES = {".parquet": "parquet", ".arrow": "arrow"}
_READERS = dict.fromkeys(JSON_SUFFIXES, "json") | dict.fromkeys(CSV_SUFFIXES, "csv") | TYPED_SUFFIXES
FILE_SUFFIXES = tuple(_READERS)
"""Endings of the files that are read."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_OWN = ("name", "version", "data_dir", "data_files", "description", "features")
JSON_SETTINGS = (*_OWN, "field", "use_threads", "block_size", "chunksize", "on_mixed_types", "parse_agent_traces")
CSV_SETTINGS = (
    *(*_OWN, "sep", "delimiter", "names", "column_names", "chunksize", "engine", "memory_map", "verbose"),
    # How values are typed; they are not.
    *("na_values", "keep_default_na", "na_filter", "true_values", "false_values", "thousands", "decimal"),
    *("float_precision", "date_format", "converters", "error_bad_lines", "warn_bad_lines", "mangle_dupe_cols"),
)
"""Settings of a hub data set that are obeyed, or on which its rows do not depend."""

_REPOSITORY = re.compile(r"(?:[\w.-]{1,96}/)?[\w.-]{1,96}")
"""Names that a repository of the hub may have: NAME or OWNER/NAME."""


def check_path(path: str) -> None:
    """Check that the source of `open_source` exists, without `datasets`.

    Raises:
        ValueError: The path does not exist, or has a type that is not read.
        OSError: It cannot be accessed.
    """
    local = expand(path)
    suffix = local.suffix.lower()
    msg = ""
    if not local.exists() and (suffix in FILE_SUFFIXES or local.is_absolute() or not _REPOSITORY.fullmatch(path)):
        where = "" if local.is_absolute() else f" in {Path.cwd()}, where the command runs"
        msg = f"there is no such file or folder{where}"
    elif local.is_file() and suffix not in FILE_SUFFIXES:
        known = ", ".join(FILE_SUFFIXES)
        msg = f"files ending in {local.suffix!r} are not read; give one of {known}, or a folder"
    elif local.exists() and not local.is_file() and not local.is_dir():
        msg = "it is neither a file nor a folder"
    if msg:
        raise ValueError(msg)


def has_one_split(path: Path) -> bool:
    """Whether a local path has a single split, under any name."""
    return (path.is_file() and not has_splits(path)) or (path / "state.json").is_file()


def has_configurations(path: Path) -> bool:
    """Whether a local path is a data set that may have several, as those of the hub: a folder, no saved table."""
    is_saved = any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))
    if not path.is_dir() or is_saved:
        return False
    return not _is_image_folder(path) and not has_captions(path, IMAGE_SUFFIXES, FILE_SUFFIXES)


def open_source(path: str, split: str, config: str | None, revision: str | None = None) -> tuple[Table, Path | None]:
    """Read the rows of a split.

    Returns:
        The rows, and the folder to which their image paths are relative; None if they are not files of this machine.

    Raises:
        ValueError: There is no such split, or a file cannot be read.
        OSError: Likewise, or the hub cannot be reached.
        ImportError: The data set needs a package that is not installed.
    """
    local = expand(path)
    if local.is_file() and local.suffix.lower() not in TYPED_SUFFIXES:
        return open_text(local, split), local.parent
    from datasets.exceptions import DatasetGenerationError, DatasetsError

    folder = local.parent if local.is_file() else local if local.is_dir() else None
    try:
        with _quiet():
            return _open_stored(path, local, split, config, revision), folder
    except DatasetGenerationError as error:
        # For a file that does not parse, its message has no details.
        msg = f"{error} ({error.__cause__})" if error.__cause__ else str(error)
        raise ValueError(msg) from None
    except DatasetsError as error:
        raise ValueError(str(error)) from None
    except (StopIteration, IndexError):
        # Raised for an empty file, and for an empty saved data set.
        return [], None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the bars of `datasets`, and log lines, its own and the hub's, about errors that are raised, too."""
    import datasets
    from huggingface_hub.utils import logging

    levels = [(module, module.get_verbosity()) for module in (datasets.logging, logging)]
    for module, _ in levels:
        module.set_verbosity(module.CRITICAL)
    has_bars = not datasets.utils.are_progress_bars_disabled()
    if has_bars:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if has_bars:
            datasets.enable_progress_bars()
        for module, level in levels:
            module.set_verbosity(level)


def open_text(path: Path, split: str) -> Table:
    """Read the rows of a file of text, see `JSON_SUFFIXES` and `CSV_SUFFIXES`; of a split, if it has several."""
    return open_json(path, split=split) if path.suffix.lower() in JSON_SUFFIXES else open_csv(path)


def _open_stored(path: str, local: Path, split: str, config: str | None, revision: str | None) -> Table:
    import datasets

    if local.is_file():
        # A single file has a single split, whatever the recipe calls it.
        reader = TYPED_SUFFIXES[local.suffix.lower()]
        return open_table(datasets.load_dataset(reader, data_files={"train": str(local)}, split="train"))
    if not local.exists():
        return _open_built(find_repository(path, config, revision), split, None)
    if (local / "dataset_dict.json").is_file():
        splits = datasets.load_from_disk(str(local))
        if split not in splits:
            msg = f"it has the splits {', '.join(splits)}"
            raise SplitError(msg, splits)
        return open_table(splits[split])
    if (local / "state.json").is_file():
        return open_table(datasets.load_from_disk(str(local)))
    return _open_folder(local, split, config)


def _open_folder(local: Path, split: str, config: str | None) -> Table:
    import datasets

    if has_captions(local, IMAGE_SUFFIXES, FILE_SUFFIXES):
        return open_captions(local, IMAGE_SUFFIXES, split)
    if _is_image_folder(local):
        return _open_built(datasets.load_dataset_builder("imagefolder", data_dir=str(local)), split, local)
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    builder = datasets.load_dataset_builder(str(local), config)
    beside = _find_beside_images(local) if isinstance(builder, ImageFolder) else []
    if beside:
        reader = _READERS[Path(beside[0]).suffix.lower()]
        builder = datasets.load_dataset_builder(reader, data_files={"train": beside})
    return _open_built(builder, split, local)


def _is_image_folder(folder: Path) -> bool:
    has_metadata = any(next(folder.glob(f"**/{name}"), None) for name in (*METADATA, "metadata.parquet"))
    return has_metadata and any(file.suffix.lower() in IMAGE_SUFFIXES for file in folder.rglob("*"))


def _find_beside_images(folder: Path) -> list[str]:
    """Find the files with rows in a folder whose files are mostly images.

    Raises:
        ValueError: They are of several kinds.
    """
    found = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in FILE_SUFFIXES and not file.name.startswith((".", "dataset_info"))
    )
    readers = {_READERS[file.suffix.lower()]: str(file.relative_to(folder)) for file in found}
    if len(readers) > 1:
        msg = f"{' and '.join(readers.values())} are of different kinds; name the file that holds the rows"
        raise ValueError(msg)
    return [str(file) for file in found]


def _open_built(builder: Any, split: str, folder: Path | None) -> Table:
    """Read a split whose files `datasets` has found; with its own reader only if they are typed."""
    from datasets.packaged_modules.csv.csv import Csv
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
    from datasets.packaged_modules.json.json import Json

    config = builder.config
    if isinstance(builder, Json):
        check_settings(config, JSON_SETTINGS)
        return _open_texts(
            builder, split, lambda file: open_json(file.path, name=file.name, field=config.field, split=split)
        )
    if isinstance(builder, Csv):
        check_settings(config, CSV_SETTINGS)
        # A comma is the default of `datasets`.
        separator = None if config.sep == "," else config.sep
        columns = config.names
        return _open_texts(
            builder, split, lambda file: open_csv(file.path, name=file.name, separator=separator, columns=columns)
        )
    if isinstance(builder, ImageFolder) and not _has_typed_metadata(builder, split):
        return _open_image_folder(builder, split, folder)
    builder.download_and_prepare()
    return open_table(builder.as_dataset(split=split))


def check_settings(config: Any, known: Sequence[str]) -> None:
    """Refuse settings of a data set for reading its files that are not obeyed here.

    Raises:
        ValueError: There are such settings.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in ("encoding", "encoding_errors"):
            is_fine = value in (None, "strict") or str(value).lower().replace("_", "-") in ("utf-8", "utf8")
        else:
            is_fine = field.name in known or value == field.default
        if not is_fine:
            msg = (
                f"its own settings say {field.name} = {value!r}, which is not obeyed; download its files and write "
                "them as JSON Lines in UTF-8"
            )
            raise ValueError(msg)
    separator = getattr(config, "sep", ",")
    if len(separator.encode()) != 1:
        msg = f"its own settings say that {separator!r} separates values; a single ASCII character can"
        raise ValueError(msg)


def _files_of(builder: Any, split: str) -> list[str]:
    files = builder.config.data_files or {}
    if split not in files:
        msg = f"it has the splits {', '.join(map(str, files))}"
        raise SplitError(msg, files)
    return [str(file) for file in files[split]]


def _download(builder: Any, names: Sequence[str]) -> list[FolderFile]:
    """Download and unpack files; members of archives are named by their paths there."""
    import datasets

    settings = datasets.DownloadConfig(use_etag=False, token=builder.token, storage_options=builder.storage_options)
    manager = datasets.DownloadManager(dataset_name=builder.dataset_name, download_config=settings)
    # What is packed cannot be told by name where it lies under another one; but every image need not be opened for it.
    images = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    remote = [name for name in images if "://" in name]
    others = [name for name in names if not name.lower().endswith(IMAGE_SUFFIXES)]
    paths = {name: name for name in images}
    paths |= dict(zip(remote, manager.download(remote), strict=True))
    paths |= dict(zip(others, manager.download_and_extract(others), strict=True))
    found = []
    for name in names:
        path = Path(paths[name])
        if path.is_dir():
            inside = [Path(file) for file in manager.iter_files(path)]
            found += [FolderFile(f"{name}/{file.relative_to(path).as_posix()}", file) for file in inside]
        else:
            found.append(FolderFile(name, path))
    return found


def _open_texts(builder: Any, split: str, open_text: Callable[[FolderFile], Table]) -> Table:
    files = _download(builder, _files_of(builder, split))
    named = [FolderFile(PurePosixPath(file.name).name, file.path) for file in files]
    return declare(join_tables([open_text(file) for file in named]), builder.info.features)


def _has_metadata(builder: Any) -> bool:
    return any(
        PurePosixPath(name).name in METADATA
        for split in builder.config.data_files
        for name in _files_of(builder, split)
    )


def _has_typed_metadata(builder: Any, split: str) -> bool:
    return any(name.endswith("metadata.parquet") for name in _files_of(builder, split))


def _open_image_folder(builder: Any, split: str, folder: Path | None) -> Table:
    config = builder.config
    known = (*_OWN, "drop_labels", "drop_metadata", "decode_num_threads")
    check_settings(config, known)
    read = tuple(builder.EXTENSIONS)
    names = [
        name
        for name in _files_of(builder, split)
        if name.lower().endswith((*read, ".zip")) or (PurePosixPath(name).name in METADATA and not config.drop_metadata)
    ]
    files = [
        file
        for file in _download(builder, names)
        if file.name.lower().endswith(read) or (PurePosixPath(file.name).name in METADATA and not config.drop_metadata)
    ]
    splits = {
        str(other): [name for name in _files_of(builder, other) if name.lower().endswith(read)]
        for other in config.data_files
    }
    if folder is not None and not _has_metadata(builder):
        if not config.drop_metadata and _is_image_folder(folder):
            msg = f"its metadata does not lie in the folders of its splits ({', '.join(splits)}); put a file into each"
            raise ValueError(msg)
        _refuse_left_images(folder, read)
    splits[split] = [file.name for file in files if file.name.lower().endswith(read)]
    return open_images(splits, files, is_complete=folder is None, with_labels=not config.drop_labels)


def _refuse_left_images(folder: Path, read: tuple[str, ...]) -> None:
    """Refuse a folder of images with files of other image formats, such as telephones write, that would be left out."""
    left = [file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.suffix.lower() not in read]
    left = sorted(file for file in left if not file.name.startswith("."))
    if left:
        more = f" and {len(left) - 1:,} more like it" if len(left) > 1 else ""
        msg = (
            f"{str(left[0].relative_to(folder))!r}{more} would be left out, files ending in {left[0].suffix!r} make no "
            "rows by themselves; write them as JPEG or PNG, or name the images in a metadata.csv"
        )
        raise ValueError(msg)
