"""Streams of folders and of repositories of the hub: `datasets` finds the files of a split, which are read here."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...errors import SplitError
from ...system.files import expand
from .hub import find_repository
from .sources import CSV_SETTINGS, JSON_SETTINGS, check_settings
from .stream_files import StreamFile, name_files

KINDS = ("Json", "Csv", "Parquet", "WebDataset")
"""What `datasets` calls files that are streamed."""

SETTINGS = {"Json": JSON_SETTINGS, "Csv": CSV_SETTINGS}
NOT_STREAMED = ("field", "sep", "delimiter", "names", "column_names")
"""Settings that are obeyed where rows have numbers."""


def find_split(path: str, split: str, config: str | None, revision: str | None) -> list[StreamFile]:
    """Find the files of a split of a folder, or of a repository of the hub.

    Raises:
        ValueError: There is no such split, or its files are not streamed.
        OSError: The hub cannot be reached.
    """
    import datasets
    from datasets.exceptions import DatasetsError

    local = expand(path)
    try:
        if local.is_dir():
            builder = datasets.load_dataset_builder(str(local), config)
        else:
            builder = find_repository(path, config, revision)
    except DatasetsError as error:
        raise ValueError(str(error)) from None
    return files_of(builder, split)


def files_of(builder: Any, split: str) -> list[StreamFile]:
    """Give the files that a builder of `datasets` has for a split, sorted by name.

    Raises:
        ValueError: It has no such split, or its rows are not those of its files.
    """
    kind = next((base.__name__ for base in type(builder).__mro__ if base.__name__ in KINDS), None)
    if kind is None:
        msg = f"its rows are made by {type(builder).__name__!r} of datasets, and not streamed; leave data.streaming out"
        raise ValueError(msg)
    features = builder.info.features or {}
    labels = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    if kind != "Parquet" and labels:
        msg = f"the names of {labels[0]!r} stand apart from its rows, which is not streamed; leave data.streaming out"
        raise ValueError(msg)
    files = builder.config.data_files or {}
    if kind in SETTINGS:
        known = [name for name in SETTINGS[kind] if name not in NOT_STREAMED]
        check_settings(builder.config, [*known, *_find_implied(builder.config, files.get(split, ()))])
    if split not in files:
        msg = f"it has the splits {', '.join(map(str, files))}"
        raise SplitError(msg, files)
    paths = sorted(str(file) for file in files[split])
    if not any("://" in path for path in paths):
        return name_files([Path(path) for path in paths])
    return [StreamFile(path=path, name=path.partition("://")[2].rpartition("@")[2]) for path in paths]


def _find_implied(config: Any, files: Iterable[Any]) -> list[str]:
    """Name the settings that follow from the endings of a split's files, by which they are read."""
    is_tabbed = getattr(config, "sep", None) == "\t" and all(str(file).lower().endswith(".tsv") for file in files)
    return ["sep"] if is_tabbed else []
