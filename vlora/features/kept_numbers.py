"""Numbers of rows, kept in one file of a folder: what a model that does not change has found for each of them."""

import contextlib
import io
import os
import zipfile
from pathlib import Path

import attrs
import numpy as np

SUFFIX = ".npz"
BROKEN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
"""What reading a file raises that is none, or a damaged one."""


@attrs.define
class KeptNumbers:
    """A number under each key.

    Attributes:
        path: The file; None keeps them in memory alone.
        numbers: By key.
        note: Why they are not on disk, or were not read; None if they are.
    """

    path: Path | None
    numbers: dict[str, float] = attrs.field(factory=dict)
    note: str | None = None

    @classmethod
    def open(cls, folder: Path | None, name: str) -> "KeptNumbers":
        """Read what is kept under a name; nothing where there is no such file, or a damaged one.

        Args:
            folder: Where files lie; None keeps nothing on disk.
            name: What the numbers depend on besides their keys.
        """
        if folder is None:
            return cls(None)
        path = folder / f"{name}{SUFFIX}"
        if not path.is_file():
            return cls(path)
        try:
            # Read whole: of a file that is none NumPy leaves it open.
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as found:
                keys, values = found["keys"].tolist(), found["values"].astype(np.float64).tolist()
        except BROKEN as error:
            return cls(path, note=f"{path}: cannot be read and is made anew ({error})")
        return cls(path, dict(zip(keys, values, strict=True)))

    def save(self) -> None:
        """Write the file: it appears whole or not at all. Where it cannot be written, `note` says why."""
        if self.path is None:
            return
        keys = sorted(self.numbers)
        partial = self.path.with_name(f"{self.path.stem}-{os.getpid()}.partial{SUFFIX}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(partial, keys=np.array(keys), values=np.array([self.numbers[key] for key in keys], np.float64))
            partial.replace(self.path)
        except OSError as error:
            self.note = f"{self.path}: cannot be written ({error}); the next run computes them again"
            with contextlib.suppress(OSError):
                partial.unlink()
