"""Features of images, kept: a frozen tower gives the same for the same image every epoch.

An entry is what the tower made of one image (or of one row, in families whose images are not embedded apart), under a
key that stands for the image's pixels and their preparation. Entries stay in memory up to one budget and on disk up
to another; what fits in neither is computed again. Nothing is thrown out to make room: rows come in a new order every
epoch, so that every entry is as likely to be asked for as the one it would make room for.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import attrs
import mlx.core as mx
import numpy as np

Entry = dict[str, mx.array]


@attrs.define(eq=False)
class FeatureCache:
    """Entries in memory and on disk.

    Several processes may share a folder: a file is written under a name of its own and renamed, and two that write
    the same key write the same bytes.

    Attributes:
        memory_bytes: Budget in memory.
        disk_bytes: Budget on disk, all of the folder counted.
        folder: Where entries are written that memory has no room for; one folder per tower. None for memory alone.
        n_memory: Entries found in memory.
        n_disk: Entries found on disk.
        n_computed: Entries asked for and not found.
        used_memory_bytes: Held in memory.
        used_disk_bytes: Held on disk.
    """

    memory_bytes: int
    disk_bytes: int = 0
    folder: Path | None = None
    n_memory: int = attrs.field(default=0, init=False)
    n_disk: int = attrs.field(default=0, init=False)
    n_computed: int = attrs.field(default=0, init=False)
    used_memory_bytes: int = attrs.field(default=0, init=False)
    used_disk_bytes: int = attrs.field(default=0, init=False)
    _entries: dict[str, Entry] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        """Count what the folder holds already."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.used_disk_bytes = sum(file.stat().st_size for file in self.folder.rglob("*.safetensors"))

    def get(self, key: str) -> Entry | None:
        """Find an entry; None if it has to be computed."""
        if key in self._entries:
            self.n_memory += 1
            return self._entries[key]
        file = self._file(key)
        if file is not None and file.exists():
            self.n_disk += 1
            entry = cast("Entry", mx.load(str(file)))
            self._hold(key, entry)
            return entry
        self.n_computed += 1
        return None

    def put(self, key: str, entry: Mapping[str, mx.array]) -> None:
        """Keep an entry where there is room."""
        held = dict(entry)
        if self._hold(key, held):
            return
        file = self._file(key)
        size = sum(array.nbytes for array in held.values())
        if file is None or file.exists() or self.used_disk_bytes + size > self.disk_bytes:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f".{os.getpid()}-{file.name}")
        mx.save_safetensors(str(unfinished), held)
        unfinished.replace(file)
        self.used_disk_bytes += size

    def _hold(self, key: str, entry: Entry) -> bool:
        size = sum(array.nbytes for array in entry.values())
        if self.used_memory_bytes + size > self.memory_bytes:
            return False
        # Evaluated, or the entry would hold on to all that it was computed from.
        mx.eval(entry)
        self._entries[key] = entry
        self.used_memory_bytes += size
        return True

    def _file(self, key: str) -> Path | None:
        return None if self.folder is None else self.folder / key[:2] / f"{key}.safetensors"


def digest(parts: Iterable[bytes]) -> str:
    """Make a key of some bytes."""
    sums = hashlib.blake2b(digest_size=20)
    for part in parts:
        sums.update(len(part).to_bytes(8, "little"))
        sums.update(part)
    return sums.hexdigest()


def digest_arrays(arrays: Mapping[str, mx.array]) -> str:
    """Make a key of some weights: names, types, shapes and values."""

    def parts() -> Iterable[bytes]:
        for name in sorted(arrays):
            value = arrays[name]
            yield f"{name} {value.dtype} {value.shape}".encode()
            yield np.array(value.view(mx.uint8)).tobytes() if value.size else b""

    return digest(parts())
