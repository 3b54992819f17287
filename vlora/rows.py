"""Rows of a data set, read through Hugging Face `datasets`; images stay closed until a row is encoded.

`datasets` and pandas under it take most of a second to import. Functions that use them import them; the built-in rows,
and complaints of files that are not there, need neither.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs
import numpy as np

from .digits import BUILTIN_DIGITS, check_question, load_digit_rows
from .errors import RecipeError, SampleError
from .files import expand, is_file
from .inline import is_inline
from .recipe import DataSection
from .samples import Row, format_sample
from .tables import open_table
from .types import Sample
from .urls import is_url

FILE_READERS = {
    ".jsonl": "json",
    ".json": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".arrow": "arrow",
}
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


class Table(Protocol):
    """Rows by number; a `datasets.Dataset` is one, and so is a list."""

    def __len__(self) -> int:
        """Count the rows."""

    def __getitem__(self, index: int) -> Row:
        """Read a row."""


@attrs.frozen(eq=False, kw_only=True)
class Rows:
    """The rows of one split, as conversations on demand.

    Attributes:
        name: How error messages name the data set ("train.jsonl").
        table: The rows.
        numbers: Which of them, by number.
        folder: Where relative image paths begin; None if the paths are not files beside the rows.
        custom_prompt_format: As in the recipe.
        kinds: Of columns that have a declared type, what they hold ("image", "audio", "label", "text", ...; see
            `vlora.tables.kind_of`). Files of text declare nothing.
    """

    name: str
    table: Table
    numbers: Sequence[int]
    folder: Path | None = None
    custom_prompt_format: str | None = None
    kinds: Mapping[str, str] = attrs.field(factory=dict)

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.numbers)

    def __getitem__(self, index: int) -> Sample:
        """Read a row as a conversation.

        Raises:
            SampleError: There is none in it.
        """
        number = int(self.numbers[index])
        source = f"{self.name} row {number}"
        try:
            row = self.table[number]
        except SampleError as error:
            msg = f"{source}: {error}"
            raise SampleError(msg) from None
        sample = format_sample(row, source=source, custom_prompt_format=self.custom_prompt_format)
        if self.folder is None:
            return sample
        return attrs.evolve(sample, images=tuple(beside(image, self.folder) for image in sample.images))


def beside(image: Any, folder: Path) -> Any:
    """Resolve a relative image path against the folder of the file that names it; addresses and base64 stay."""
    if isinstance(image, dict) and image.get("bytes") is None:
        image = image.get("path")
    if isinstance(image, str) and not is_url(image) and not is_inline(image):
        path = folder / expand(image)
        return str(path) if is_file(path) or not is_file(expand(image)) else image
    return image


def check_paths(data: DataSection) -> None:
    """Look for the data that a recipe names, without `datasets`; what `read_rows` would complain of anyway.

    Raises:
        RecipeError: The built-in rows have no such split or question, or a path leads to no file that is read.
    """
    for key, path, split in _sources(data):
        if path == BUILTIN_DIGITS:
            check_question(split, data.config)
        else:
            _check_path(key, path, split)


def read_rows(data: DataSection, *, seed: int = 0) -> tuple[Rows, Rows | None]:
    """Read the training rows, and the validation rows if the recipe names any.

    Args:
        data: The recipe's section.
        seed: Fixes which rows `valid_fraction` holds out.

    Raises:
        RecipeError: There is no such data set, split or file, or it is empty.
    """
    train, *valid = [_load(data, path, split, key) for key, path, split in _sources(data)]
    if valid:
        return train, valid[0]
    if not data.valid_fraction:
        return train, None
    order = np.random.default_rng(seed).permutation(len(train))
    n_held_out = max(1, round(len(train) * data.valid_fraction))
    if n_held_out >= len(train):
        msg = f"data.valid_fraction: holding out {n_held_out} of {len(train)} rows leaves none to train on"
        raise RecipeError(msg)
    held_out, kept = np.sort(order[:n_held_out]).tolist(), np.sort(order[n_held_out:]).tolist()
    return attrs.evolve(train, numbers=kept), attrs.evolve(train, numbers=held_out)


def _sources(data: DataSection) -> Iterator[tuple[str, str, str]]:
    """Yield (key, path, split) of the rows to train on, then of those to validate on if they are read by themselves."""
    yield "data.path", data.path, data.split
    if data.valid_path is not None:
        yield "data.valid_path", data.valid_path, data.split
    elif data.valid_split is not None:
        if _has_one_split(Path(data.path).expanduser()):
            msg = (
                f"data.valid_split: found {data.valid_split!r}, {data.path!r} has a single split, which is trained on; "
                "give data.valid_path or data.valid_fraction"
            )
            raise RecipeError(msg)
        yield "data.valid_split", data.path, data.valid_split


def _load(data: DataSection, path: str, split: str, key: str) -> Rows:
    if path == BUILTIN_DIGITS:
        table: Table = load_digit_rows(split, data.config)
        folder = None
    else:
        _check_path(key, path, split)
        from datasets.exceptions import DatasetsError

        try:
            table, folder = _load_dataset(path, split, data.config)
        except (OSError, ValueError, DatasetsError, ImportError) as error:
            raise _unreadable(key, path, split, _explain(error)) from None
        except (StopIteration, IndexError):
            # What `datasets` 4 raises for an empty file, and for an empty saved data set.
            table, folder = [], None
    if len(table) == 0:
        msg = f"{key}: {path!r} (split {split!r}) has no rows"
        raise RecipeError(msg)
    name = f"{Path(path).name} {split}" if path != split else path
    return Rows(
        name=name,
        table=table,
        numbers=range(len(table)),
        folder=folder,
        kinds=getattr(table, "kinds", {}),
        custom_prompt_format=data.custom_prompt_format,
    )


def _check_path(key: str, path: str, split: str) -> None:
    local = Path(path).expanduser()
    suffix = local.suffix.lower()
    why = ""
    try:
        if not local.exists() and (suffix in FILE_READERS or local.is_absolute()):
            why = "there is no such file or folder"
        elif local.is_file() and suffix not in FILE_READERS:
            known = ", ".join(FILE_READERS)
            why = f"files ending in {local.suffix!r} are not read; give one of {known}, or a folder"
    except OSError as error:
        why = str(error)
    if why:
        raise _unreadable(key, path, split, why)


def _unreadable(key: str, path: str, split: str, why: str) -> RecipeError:
    return RecipeError(f"{key}: cannot read {path!r} (split {split!r}): {why}{_suggest(Path(path).expanduser())}")


def _explain(error: BaseException) -> str:
    """Say what went wrong; of a file that does not parse `datasets` itself says no more than that."""
    from datasets.exceptions import DatasetGenerationError

    cause = error.__cause__
    return f"{error} ({cause})" if isinstance(error, DatasetGenerationError) and cause else str(error)


def _suggest(path: Path) -> str:
    """Name the file or folder that may have been meant, where there is none of that name."""
    try:
        # Without the endings, in which most files of a folder are alike.
        files = {} if path.exists() else {file.stem: file for file in path.parent.iterdir()}
    except OSError:
        return ""
    near = difflib.get_close_matches(path.stem, files, n=1)
    return f"; did you mean {str(files[near[0]])!r}?" if near else ""


def _has_one_split(path: Path) -> bool:
    return path.is_file() or (path / "state.json").is_file()


def _load_dataset(path: str, split: str, config: str | None) -> tuple[Table, Path | None]:
    import datasets

    local = Path(path).expanduser()
    if not local.exists():
        return open_table(datasets.load_dataset(path, config, split=split)), None
    if local.is_file():
        reader = FILE_READERS[local.suffix.lower()]
        # A single file has a single split, whatever the recipe calls it.
        table = datasets.load_dataset(reader, data_files={"train": str(local)}, split="train")
        return open_table(table), local.parent
    if (local / "dataset_dict.json").is_file():
        splits = datasets.load_from_disk(str(local))
        if split not in splits:
            msg = f"it has the splits {', '.join(splits)}"
            raise ValueError(msg)
        return open_table(splits[split]), local
    if (local / "state.json").is_file():
        return open_table(datasets.load_from_disk(str(local))), local
    if _is_image_folder(local):
        table = datasets.load_dataset("imagefolder", data_dir=str(local), split=split)
        return open_table(table), local
    return open_table(datasets.load_dataset(str(local), config, split=split)), local


def _is_image_folder(folder: Path) -> bool:
    has_metadata = any(next(folder.glob(f"**/metadata.{kind}"), None) for kind in ("jsonl", "csv", "parquet"))
    return has_metadata and any(file.suffix.lower() in IMAGE_SUFFIXES for file in folder.rglob("*"))
