"""Entries of named arrays on disk: shards in safetensors' format, in a folder that runs may share.

A shard is written whole, under a private name, and renamed: what is unfinished is never read. What a shard holds is
known from its header, and an entry is read from its own place in the file, its checksum compared once: plain reads,
because a mapped file that another program cuts short would end the process. A shard that is broken is passed over.
"""

import contextlib
import json
import os
import re
import shutil
import threading
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import numpy as np

Entry = Mapping[str, Any]
"""Names to arrays, of MLX or NumPy."""

Raw = dict[str, tuple[str, tuple[int, ...], bytes]]
"""Names to (type, shape, bytes) as they are in the file."""

SHARD_BYTES = 64 * 2**20
"""Entries wait for so much company before they are written."""

SPARE_BYTES = 2 * 10**9
"""Left free on the disk, whatever the budget."""

LEFT_ALONE_S = 3600.0
"""Shards used within this time are not deleted: another run may be reading them."""

ABANDONED_S = 24 * 3600.0
"""Unfinished shards older than this are of a run that ended early."""

FORMAT = "vlora features 1"

SUFFIX = ".safetensors"

FOLDER_NAME = re.compile("[0-9a-f]{40}")
FILE_NAME = re.compile(r"\.?[0-9a-f]{32}\.safetensors")
"""What folders of towers and shards are called. Nothing else below the root is ever read, counted or deleted: the
user may keep other things there, models too."""

TYPES: Mapping[str, tuple[mx.Dtype, str]] = {
    "BOOL": (mx.bool_, "bool"),
    "U8": (mx.uint8, "uint8"),
    "I8": (mx.int8, "int8"),
    "U16": (mx.uint16, "uint16"),
    "I16": (mx.int16, "int16"),
    "U32": (mx.uint32, "uint32"),
    "I32": (mx.int32, "int32"),
    "U64": (mx.uint64, "uint64"),
    "I64": (mx.int64, "int64"),
    "F16": (mx.float16, "float16"),
    "BF16": (mx.bfloat16, ""),
    "F32": (mx.float32, "float32"),
    "F64": (mx.float64, "float64"),
}
"""Names of types in safetensors' format: MLX's and NumPy's, which has no bfloat16."""

_NAMES = {mlx: name for name, (mlx, _) in TYPES.items()} | {numpy: name for name, (_, numpy) in TYPES.items() if numpy}


@attrs.frozen
class Place:
    """Where an entry lies.

    Attributes:
        file: The shard.
        arrays: (name, type, shape, first byte in the file, bytes) of each array.
        checksum: CRC-32 of all names, types, shapes and bytes, in this order.
    """

    file: Path
    arrays: tuple[tuple[str, str, tuple[int, ...], int, int], ...]
    checksum: int


@attrs.define(eq=False)
class Shards:
    """Entries in a folder. Any thread may add and read entries of host arrays; the rest is one thread's.

    Shards are written by a thread of their own, one at a time, while the run goes on.

    Room is made by deleting the shards that have not been used for the longest time, of all folders under the budget,
    but none that this run has used or that another run may be using.

    Attributes:
        root: The folder whose shards, of all towers together, are under the budget.
        tower: 40 hexadecimal digits, the name of the folder in it that these entries have for themselves.
        budget_bytes: Of all shards below `root`.
        shard_bytes: An entry waits until this much has come together, or until `flush`.
        notes: What went wrong and was passed over, for the log; whoever reads them clears them.
    """

    root: Path
    tower: str
    budget_bytes: int
    shard_bytes: int = SHARD_BYTES
    notes: list[str] = attrs.field(factory=list, init=False)
    _index: dict[str, Place] = attrs.field(factory=dict, init=False)
    _known: dict[Path, int] = attrs.field(factory=dict, init=False)
    _used: dict[Path, float] = attrs.field(factory=dict, init=False)
    _sound: set[str] = attrs.field(factory=set, init=False)
    _waiting: dict[str, Entry] = attrs.field(factory=dict, init=False)
    _copies: list["_Copies"] = attrs.field(factory=list, init=False)
    _waiting_bytes: int = attrs.field(default=0, init=False)
    _writing: dict[str, Entry] = attrs.field(factory=dict, init=False)
    _writer: threading.Thread | None = attrs.field(default=None, init=False)
    _is_full: bool = attrs.field(default=False, init=False)
    _lock: threading.RLock = attrs.field(factory=threading.RLock, init=False)

    def __attrs_post_init__(self) -> None:
        """Read what is there."""
        self._remove_abandoned()
        self._look()

    def __contains__(self, key: str) -> bool:
        """Whether there is an entry."""
        return key in self._waiting or key in self._writing or key in self._index

    @property
    def folder(self) -> Path:
        """The entries' own."""
        return self.root / self.tower

    @property
    def written_bytes(self) -> int:
        """Bytes of the shards in the folder, as far as they are known here."""
        with self._lock:
            return sum(self._known.values())

    def read(self, key: str) -> dict[str, mx.array] | None:
        """Read an entry; None if there is none, or no sound one."""
        held = self._held(key)
        if held is not None:
            return {name: mx.array(value) if isinstance(value, np.ndarray) else value for name, value in held.items()}
        raw = self.read_raw(key)
        return None if raw is None else {name: _to_mlx(*value) for name, value in raw.items()}

    def read_host(self, key: str) -> dict[str, Any] | None:
        """Read an entry that was written from NumPy's arrays."""
        held = self._held(key)
        if held is not None:
            return dict(held)
        raw = self.read_raw(key)
        if raw is None:
            return None
        return {
            name: np.frombuffer(data, dtype=TYPES[kind][1]).reshape(shape) for name, (kind, shape, data) in raw.items()
        }

    def _held(self, key: str) -> Entry | None:
        """Give an entry that is on its way to the disk."""
        return self._waiting.get(key) or self._writing.get(key)

    def read_raw(self, key: str) -> Raw | None:
        """Read an entry's bytes from its shard."""
        place = self._index.get(key)
        if place is None:
            return None
        raw: Raw = {}
        checksum, is_whole = 0, True
        try:
            with place.file.open("rb") as file:
                for name, kind, shape, start, size in place.arrays:
                    file.seek(start)
                    data = file.read(size)
                    is_whole &= len(data) == size
                    if key not in self._sound:
                        checksum = zlib.crc32(data, zlib.crc32(_label(key, name, kind, shape), checksum))
                    raw[name] = (kind, shape, data)
        except FileNotFoundError:
            # Deleted to make room for another run's.
            self._forget(place.file)
            return None
        except (OSError, ValueError):
            is_whole = False
        if not is_whole or (key not in self._sound and checksum != place.checksum):
            self._delete_damaged(place.file, "other bytes than were written")
            return None
        self._sound.add(key)
        self._touch(place.file)
        return raw

    def add(self, key: str, entry: Entry) -> bool:
        """Let an entry wait to be written; whether it is, or will be, there.

        One of MLX's arrays is for the thread that computes them to add: `add_computed`.
        """
        if any(isinstance(value, mx.array) for value in entry.values()):
            self.add_computed({key: entry})
            return key in self
        with self._lock:
            if key not in self and not self._is_full:
                self._waiting[key] = entry
                self._waiting_bytes += sum(value.nbytes for value in entry.values())
            return key in self

    def add_computed(self, entries: Mapping[str, Mapping[str, mx.array]]) -> None:
        """Let entries of MLX's arrays wait to be written; only for the thread that computes them.

        A copy of them is made on the device, all in one: reading an array on the host takes it off the device for good,
        and the run goes on working with these.
        """
        with self._lock:
            new = {key: entry for key, entry in entries.items() if key not in self}
            if new and not self._is_full:
                self._copies.append(_Copies.of(new))
                self._waiting |= new
                self._waiting_bytes += sum(value.nbytes for entry in new.values() for value in entry.values())

    def flush(self, *, whole: bool = True) -> None:
        """Write what waits.

        Args:
            whole: Also if it is less than a shard, and return when it is written.
        """
        if self._writer is not None and not self._writer.is_alive():
            self._wait()
        if not whole and self._waiting_bytes < self.shard_bytes:
            return
        self._wait()
        with self._lock:
            # In this order: who looks for an entry meanwhile finds it in one of the two.
            self._writing = self._waiting
            copies, self._copies = self._copies, []
            self._waiting, self._waiting_bytes = {}, 0
        if self._writing:
            self._writer = threading.Thread(target=self._write, args=(self._writing, copies), name="vlora features")
            self._writer.start()
        if whole:
            self._wait()

    def _wait(self) -> None:
        if self._writer is not None:
            self._writer.join()
        self._writer, self._writing = None, {}

    def _write(self, found: Mapping[str, Entry], copies: "Sequence[_Copies]") -> None:
        with self._lock:
            self._look()
        entries: dict[str, list[_Flat]] = {}
        for copy in copies:
            entries |= copy.read()
        entries |= {
            key: [_Flat.of(name, value) for name, value in entry.items()]
            for key, entry in found.items()
            if key not in entries
        }
        entries = {key: entry for key, entry in entries.items() if key not in self._index}
        if not entries:
            return
        unfinished = self.folder / f".{uuid.uuid4().hex}{SUFFIX}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            header = _lay_out(entries)
            blocks = [array.data for entry in entries.values() for array in entry]
            if not self._make_room(len(header) + sum(block.nbytes for block in blocks)):
                self._give_up(
                    f"{self.root}: no room for more features of images (features.disk_gb = "
                    f"{self.budget_bytes / 1e9:g}, {SPARE_BYTES / 1e9:g} GB of the disk left free); "
                    "further ones are kept in memory only"
                )
                return
            with unfinished.open("wb") as file:
                file.write(header)
                for block in blocks:
                    file.write(block)
            finished = unfinished.with_name(unfinished.name[1:])
            unfinished.replace(finished)
        except OSError as error:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            self._give_up(f"{self.folder}: cannot be written ({error.strerror}); features are kept in memory only")
            return
        with self._lock:
            self._take_in(finished)
        self._touch(finished)

    def _give_up(self, note: str) -> None:
        with self._lock:
            self._is_full = True
            self._copies = []
            self._waiting, self._waiting_bytes = {}, 0
        self.notes.append(note)

    def _look(self) -> None:
        """Take in shards that are not known yet: those of earlier runs, and of others that run now."""
        present = {file for file in _shards(self.folder) if not file.name.startswith(".")}
        for file in sorted(present - self._known.keys()):
            self._take_in(file)
        for file in self._known.keys() - present:
            self._forget(file)

    def _take_in(self, file: Path) -> None:
        try:
            places, size = _read_header(file)
        except FileNotFoundError:
            # Another run has just made room.
            return
        except OSError as error:
            self._known[file] = 0
            self.notes.append(f"{file}: cannot be read ({error.strerror}); its features are computed again")
            return
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._delete_damaged(file, str(error))
            return
        self._known[file] = size
        self._index |= places

    def _forget(self, file: Path) -> None:
        with self._lock:
            self._known.pop(file, None)
            self._index = {key: place for key, place in self._index.items() if place.file != file}

    def _delete_damaged(self, file: Path, found: str) -> None:
        self._forget(file)
        self.notes.append(f"{file}: damaged ({found}) and deleted; its features are computed again")
        with contextlib.suppress(OSError):
            file.unlink()

    def _touch(self, file: Path) -> None:
        now = time.time()
        if now - self._used.get(file, 0.0) > LEFT_ALONE_S / 6:
            self._used[file] = now
            with contextlib.suppress(OSError):
                os.utime(file)

    def _make_room(self, size: int) -> bool:
        """Delete what has not been used for long until the budget has room for `size` bytes; whether it has."""
        shards = []
        for file in self._all_shards():
            with contextlib.suppress(OSError):
                shards.append((file.stat().st_mtime, file.stat().st_size, file))
        excess = max(
            sum(own for _, own, _ in shards) + size - self.budget_bytes,
            size + SPARE_BYTES - shutil.disk_usage(self.root).free,
        )
        if excess > self._deletable(shards):
            return False
        for used, own, file in sorted(shards):
            if excess <= 0:
                break
            if self._may_delete(used, file):
                file.unlink(missing_ok=True)
                self._forget(file)
                excess -= own
        return True

    def _all_shards(self) -> Iterator[Path]:
        for folder in self.root.iterdir() if self.root.is_dir() else ():
            if FOLDER_NAME.fullmatch(folder.name):
                yield from _shards(folder)

    def _deletable(self, shards: list[tuple[float, int, Path]]) -> int:
        return sum(own for used, own, file in shards if self._may_delete(used, file))

    def _may_delete(self, used: float, file: Path) -> bool:
        return file not in self._used and time.time() - used > LEFT_ALONE_S

    def _remove_abandoned(self) -> None:
        for file in self._all_shards():
            with contextlib.suppress(OSError):
                if file.name.startswith(".") and time.time() - file.stat().st_mtime > ABANDONED_S:
                    file.unlink()


def _shards(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [file for file in folder.iterdir() if FILE_NAME.fullmatch(file.name)]


@attrs.frozen(eq=False)
class _Flat:
    """An array as it is written."""

    name: str
    kind: str
    shape: tuple[int, ...]
    data: memoryview

    @classmethod
    def of(cls, name: str, value: Any) -> "_Flat":
        kind = _NAMES[value.dtype if isinstance(value, mx.array) else str(value.dtype)]
        return cls(name, kind, tuple(value.shape), array_bytes(value))


@attrs.frozen(eq=False)
class _Copies:
    """Entries of MLX's arrays, copied on the device into one array of bytes, which is evaluated soon.

    Attributes:
        data: u8[bytes].
        entries: For each key its arrays: (name, type, shape, first byte, bytes).
    """

    data: mx.array
    entries: Mapping[str, Sequence[tuple[str, str, tuple[int, ...], int, int]]]

    @classmethod
    def of(cls, entries: Mapping[str, Mapping[str, mx.array]]) -> "_Copies":
        end = 0
        places: dict[str, list[tuple[str, str, tuple[int, ...], int, int]]] = {}
        # Two at least, or joining them would make no copy.
        parts = [mx.zeros((1,), dtype=mx.uint8)]
        for key, entry in entries.items():
            places[key] = []
            for name, value in entry.items():
                places[key].append((name, _NAMES[value.dtype], tuple(value.shape), end + 1, value.nbytes))
                end += value.nbytes
                if value.nbytes:
                    parts.append(value.reshape(-1).view(mx.uint8))
        data = mx.concatenate(parts)
        mx.async_eval(data)
        return cls(data, places)

    def read(self) -> "dict[str, list[_Flat]]":
        # Lets go of the interpreter while it waits for the device; reading the bytes does not.
        mx.eval(self.data)
        data: Any = self.data
        block = memoryview(data)
        return {
            key: [_Flat(name, kind, shape, block[start : start + size]) for name, kind, shape, start, size in arrays]
            for key, arrays in self.entries.items()
        }


def _lay_out(entries: Mapping[str, list[_Flat]]) -> bytes:
    """Make the header of entries whose bytes follow it one behind the other."""
    header: dict[str, Any] = {}
    checksums: dict[str, str] = {}
    end = 0
    for key, entry in entries.items():
        checksum = 0
        for array in entry:
            checksum = zlib.crc32(array.data, zlib.crc32(_label(key, array.name, array.kind, array.shape), checksum))
            start, end = end, end + array.data.nbytes
            header[f"{key}:{array.name}"] = {
                "dtype": array.kind,
                "shape": list(array.shape),
                "data_offsets": [start, end],
            }
        checksums[key] = f"{checksum:08x}"
    text = json.dumps({"__metadata__": {"format": FORMAT, **checksums}, **header}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _read_header(file: Path) -> tuple[dict[str, Place], int]:
    """Read what a shard holds, and its size in bytes.

    Raises:
        ValueError: It is not whole.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length + 8 > size:
            msg = "it ends within its header"
            raise ValueError(msg)
        header = json.loads(stream.read(length))
    checksums = header.pop("__metadata__")
    if checksums.pop("format") != FORMAT:
        msg = "it is no shard of features"
        raise ValueError(msg)
    begin = 8 + length
    arrays: dict[str, list[tuple[str, str, tuple[int, ...], int, int]]] = {key: [] for key in checksums}
    for label, array in header.items():
        key, _, name = label.partition(":")
        start, end = array["data_offsets"]
        if array["dtype"] not in TYPES or begin + end > size:
            msg = f"it ends before {begin + end} bytes"
            raise ValueError(msg)
        arrays[key].append((name, array["dtype"], tuple(array["shape"]), begin + start, end - start))
    return {key: Place(file, tuple(own), int(checksums[key], 16)) for key, own in arrays.items()}, size


def _label(key: str, name: str, kind: str, shape: tuple[int, ...]) -> bytes:
    return f"{key}:{name} {kind} {list(shape)}".encode()


def array_bytes(value: Any) -> memoryview:
    """Give an array's bytes in order, without a copy where it has them so."""
    if not value.size:
        return memoryview(b"")
    flat: Any = value if isinstance(value, mx.array) else np.ascontiguousarray(value)
    return memoryview(flat.reshape(-1).view(mx.uint8 if isinstance(value, mx.array) else np.uint8))


def _to_mlx(kind: str, shape: tuple[int, ...], data: bytes) -> mx.array:
    """Make an array that any thread may use: what is computed for it is so at once, and on a named stream."""
    dtype, numpy = TYPES[kind]
    host = np.frombuffer(data, dtype=numpy or np.uint16) if data else np.zeros(0, dtype=numpy or np.uint16)
    array = mx.array(host.reshape(shape), dtype=dtype if numpy else mx.uint16)
    if not numpy:
        array = mx.view(array, dtype, stream=mx.cpu)
    mx.eval(array)
    return array
