"""Weights written as the hub expects them: files of some gigabytes, and an index that says what is in which."""

import json
from pathlib import Path

import mlx.core as mx

from ..output.atomic import sync

LARGEST = 5 * 10**9
"""Bytes of a file at most, as huggingface_hub divides models."""

INDEX_NAME = "model.safetensors.index.json"


class ShardWriter:
    """Writes arrays file by file; holds those of one file at most."""

    def __init__(self, folder: Path, form: str, largest: int = LARGEST) -> None:
        """Begin.

        Args:
            folder: Where the files go.
            form: What their metadata calls their format, "pt" or "mlx".
            largest: Bytes of a file at most, but for a single array that has more.
        """
        self.folder, self.form, self.largest = folder, form, largest
        self._waiting: dict[str, mx.array] = {}
        self._n_bytes = 0
        self._written: list[tuple[Path, list[str]]] = []
        self.total = 0
        self.n_params = 0

    def add(self, name: str, array: mx.array) -> None:
        """Take an array; what is full is written."""
        if self._waiting and self._n_bytes + array.nbytes > self.largest:
            self.flush()
        self._waiting[name] = array
        self._n_bytes += array.nbytes
        self.total += array.nbytes
        self.n_params += array.size

    def flush(self) -> None:
        """End a file."""
        if not self._waiting:
            return
        path = self.folder / f"part-{len(self._written):05d}.safetensors"
        mx.save_safetensors(str(path), self._waiting, metadata={"format": self.form})
        self._written.append((path, list(self._waiting)))
        self._waiting, self._n_bytes = {}, 0
        mx.clear_cache()

    def close(self) -> list[Path]:
        """Write what is left, give the files their names, and write the index if there are several."""
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
