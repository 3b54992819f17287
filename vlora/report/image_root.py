"""Where images lie that are not beside the file with the rows: below its folder, or below the one above."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..data.format.image_sizes import SizedImage
from ..data.rows import RowDataset
from ..errors import SampleError
from ..system.files import expand, is_file

DEEPEST = 2
"""How many folders deep images are looked for."""

MOST_FOLDERS = 500
"""Folders that are looked into."""

MOST = 0.5
"""More than this share of the images has to be missing, and to be in one other folder."""


def find_image_root(path: str, rows: RowDataset, n_rows: int) -> str | None:
    """Find the folder in which paths of images begin that do not begin beside the file with the rows.

    Args:
        path: The file, as `data.path` takes it.
        rows: Its rows.
        n_rows: How many of the first ones are looked at.

    Returns:
        The folder, as `data.image_root` takes it: relative where the path is. None where most images are not missing,
        or no folder near the file has most of them.
    """
    file = expand(path)
    if rows.folder is None or not is_file(file):
        return None
    names = _find_missing(rows, rows.folder, n_rows)
    if not names:
        return None
    here = file.resolve().parent
    counts: dict[Path, int] = {}
    for folder in _near(here):
        counts[folder] = sum(is_file(folder / name) for name in names)
        if counts[folder] == len(names):
            break
    best = max(counts, key=counts.__getitem__)
    if counts[best] <= MOST * len(names):
        return None
    return str(best) if file.is_absolute() else os.path.relpath(best)


def _find_missing(rows: RowDataset, folder: Path, n_rows: int) -> list[Path]:
    """Give the relative paths of images, each once, if most of them are not in the folder."""
    found: dict[Path, bool] = {}
    for index in range(min(n_rows, len(rows))):
        try:
            images: Sequence[Any] = rows[index].images
        except SampleError:
            continue
        for image in images:
            own = image.image if isinstance(image, SizedImage) else image
            if isinstance(own, str) and Path(own).is_relative_to(folder):
                found[Path(own).relative_to(folder)] = is_file(own)
    return list(found) if sum(found.values()) < (1 - MOST) * len(found) else []


def _near(here: Path) -> Iterator[Path]:
    """Yield the folder above, and folders below this one and that, the nearest first."""
    seen: set[Path] = {here}
    waiting = deque([(here.parent, 0), *((folder, 1) for folder in _folders_in(here))])
    while waiting and len(seen) <= MOST_FOLDERS:
        folder, depth = waiting.popleft()
        if folder in seen:
            continue
        seen.add(folder)
        yield folder
        if depth < DEEPEST:
            waiting.extend((below, depth + 1) for below in _folders_in(folder))


def _folders_in(folder: Path) -> Iterable[Path]:
    """Give the folders in a folder by their names, but for hidden ones; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return ()
