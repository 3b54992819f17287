"""Weights written as the hub expects them: files of some gigabytes, and an index that says what is in which."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

import attrs
import mlx.core as mx

from ..features.shard_format import NAMES, array_bytes
from ..output.atomic import sync
from ..system.nouns import with_noun
from ..system.safetensors_header import LENGTH, METADATA

LARGEST = 5 * 10**9
"""Bytes of a file at most, as huggingface_hub divides models."""

INDEX_NAME = "model.safetensors.index.json"

ENTRY = 160
"""Bytes of a header that an array takes besides its name, at most: its type, up to eight axes and two places."""


@attrs.frozen(eq=False)
class Rows:
    """An array that comes some rows at a time.

    Attributes:
        dtype: Its type.
        shape: Its shape.
        blocks: Its rows, in their order, each block of this type.
    """

    dtype: mx.Dtype
    shape: tuple[int, ...]
    blocks: Iterable[mx.array]


class ShardWriter:
    """Writes arrays file by file, each as soon as it is given; holds none of them."""

    def __init__(self, folder: Path, form: str, largest: int = LARGEST) -> None:
        """Begin.

        Args:
            folder: Where the files go.
            form: What their metadata calls their format, "pt" or "mlx".
            largest: Bytes of a file at most, but for a single array that has more.
        """
        self.folder, self.form, self.largest = folder, form, largest
        self._expected: set[str] = set()
        self._room = self._used = 0
        self._entries: dict[str, dict[str, object]] = {}
        self._n_bytes = 0
        self._written: list[tuple[Path, list[str]]] = []
        self.total = 0
        self.n_params = 0

    @property
    def _path(self) -> Path:
        return self.folder / f"part-{len(self._written):05d}.safetensors"

    def expect(self, names: Iterable[str]) -> None:
        """Say which arrays may come: a header stands before its arrays, and room is left for them in it."""
        self._expected = set(names)

    def add(self, name: str, array: mx.array | Rows) -> None:
        """Write an array; begin a new file with it if the one that is open would have too much."""
        rows = array if isinstance(array, Rows) else Rows(array.dtype, array.shape, (array,))
        size = math.prod(rows.shape)
        n_bytes = size * rows.dtype.size
        if self._entries and (self._n_bytes + n_bytes > self.largest or self._used + _room(name) > self._room):
            self.flush()
        if not self._entries:
            self._open(name)
        places = [self._n_bytes, self._n_bytes + n_bytes]
        self._used += _room(name)
        self._entries[name] = {"dtype": NAMES[rows.dtype], "shape": list(rows.shape), "data_offsets": places}
        self._expected.discard(name)
        with self._path.open("r+b") as file:
            file.seek(LENGTH.size + self._room + self._n_bytes)
            found = sum(file.write(array_bytes(block)) for block in rows.blocks)
        if found != n_bytes:
            msg = f"{name}: found {with_noun(found, 'byte')}, expected {n_bytes:,}"
            raise ValueError(msg)
        self._n_bytes += n_bytes
        self.total += n_bytes
        self.n_params += size

    def _open(self, name: str) -> None:
        """Begin a file with room for the header of all that may come."""
        self._used = len(self._header())
        room = self._used + sum(_room(other) for other in {*self._expected, name})
        # Readers expect that arrays begin at a multiple of 8.
        self._room = -(-room // 8) * 8
        self._path.touch()

    def _header(self) -> bytes:
        return json.dumps({METADATA: {"format": self.form}, **self._entries}, separators=(",", ":")).encode()

    def flush(self) -> None:
        """End a file."""
        if not self._entries:
            return
        with self._path.open("r+b") as file:
            # Spaces behind a header are part of the format.
            file.write(LENGTH.pack(self._room) + self._header().ljust(self._room))
        self._written.append((self._path, list(self._entries)))
        self._entries, self._n_bytes = {}, 0

    def close(self) -> list[Path]:
        """End the last file, give the files their names, and write the index if there are several."""
        self.flush()
        count, index = len(self._written), dict[str, str]()
        named = []
        for number, (path, names) in enumerate(self._written, 1):
            name = "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
            path.rename(path.with_name(name))
            sync(path.with_name(name))
            index |= dict.fromkeys(names, name)
            named.append(path.with_name(name))
        if count > 1:
            content = {
                "metadata": {"total_parameters": self.n_params, "total_size": self.total},
                "weight_map": dict(sorted(index.items())),
            }
            (self.folder / INDEX_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return named


def _room(name: str) -> int:
    """Give the bytes of a header that an array takes at most."""
    return len(json.dumps(name)) + ENTRY
