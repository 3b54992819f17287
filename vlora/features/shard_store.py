"""Entries of named arrays on disk: shards in safetensors' format, in a folder that runs may share.

A shard is written whole, under a private name, and renamed: what is unfinished is never read. What a shard holds is
known from its header, and an entry is read from its own place in the file, its sum compared once: plain reads,
because a mapped file that another program cuts short would end the process. A shard that is broken, or not the user's
own, is passed over.
"""

import contextlib
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import numpy as np

from ..system.cache import write_new
from ..system.private import ForeignError, make_private, open_own, why_foreign
from .shard_format import TYPES, EntryLocation, Flat, Raw, Seal, lay_out, read_header, to_mlx, type_name

Entry = Mapping[str, Any]
"""Names to arrays, of MLX or NumPy."""

SHARD_BYTES = 64 * 2**20
"""Entries wait for so much company before they are written."""

SPARE_BYTES = 2 * 10**9
"""Left free on the disk, whatever the budget."""

LEFT_ALONE_S = 3600.0
"""Shards used within this time are not deleted: another run may be reading them."""

ABANDONED_S = 24 * 3600.0
"""Unfinished shards older than this are of a run that ended early."""

SUFFIX = ".safetensors"

SECRET_BYTES = 32

OTHERS_READ = 0o077
"""Bits of a mode that let others read or write."""

FOLDER_NAME = re.compile("[0-9a-f]{40}")
FILE_NAME = re.compile(r"\.?[0-9a-f]{32}\.safetensors")
"""What folders of towers and shards are called. Nothing else below the root is ever read, counted or deleted: the
user may keep other things there, models too."""


@attrs.define(eq=False)
class ShardStore:
    """Entries in a folder. Any thread may add and read entries of host arrays; the rest is one thread's.

    Shards are written by a thread of their own, one at a time, while the run goes on.

    Room is made by deleting the shards that have not been used for the longest time, of all folders under the budget,
    but none that this run has used or that another run may be using.

    Attributes:
        root: The folder whose shards, of all towers together, are under the budget.
        tower: 40 hexadecimal digits, the name of the folder in it that these entries have for themselves.
        budget_bytes: Of all shards below `root`.
        shard_bytes: An entry waits until this much has come together, or until `flush`.
        folder: The entries' own.
        notes: What went wrong and was passed over, for the log; whoever reads them clears them.
    """

    root: Path
    tower: str
    budget_bytes: int
    shard_bytes: int = SHARD_BYTES
    notes: list[str] = attrs.field(factory=list, init=False)
    folder: Path = attrs.field(init=False)
    _seal: Seal = attrs.field(init=False)
    _index: dict[str, EntryLocation] = attrs.field(factory=dict, init=False)
    _known: dict[Path, int] = attrs.field(factory=dict, init=False)
    _used: dict[Path, float] = attrs.field(factory=dict, init=False)
    _sound: dict[str, int] = attrs.field(factory=dict, init=False)
    _waiting: dict[str, Entry] = attrs.field(factory=dict, init=False)
    _copies: list["_Copies"] = attrs.field(factory=list, init=False)
    _waiting_bytes: int = attrs.field(default=0, init=False)
    _writing: dict[str, Entry] = attrs.field(factory=dict, init=False)
    _writer: threading.Thread | None = attrs.field(default=None, init=False)
    _is_full: bool = attrs.field(default=False, init=False)
    _lock: threading.RLock = attrs.field(factory=threading.RLock, init=False)

    def __attrs_post_init__(self) -> None:
        """Read what is there."""
        try:
            # Only in memory, and until this process ends, where nothing can be written.
            secret, problem = os.urandom(SECRET_BYTES), None
            self.root.mkdir(parents=True, exist_ok=True)
            secret, problem = user_secret(self.root)
        except OSError as error:
            problem = f"{self.root}: cannot be written ({error.strerror})"
        self._seal = Seal(secret, self.tower)
        self.folder = self.root / self._seal.folder_name
        problem = problem or make_private(self.folder)
        if problem is not None:
            self._give_up(f"{problem}; features are kept in memory only")
            return
        self._remove_abandoned()
        self._look()

    def __contains__(self, key: str) -> bool:
        """Whether there is an entry."""
        return key in self._waiting or key in self._writing or key in self._index

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
        return None if raw is None else {name: to_mlx(*value) for name, value in raw.items()}

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
        try:
            with open_own(place.file) as (file, found):
                for name, kind, shape, start, size in place.arrays:
                    file.seek(start)
                    raw[name] = (kind, shape, file.read(size))
        except FileNotFoundError:
            # Deleted to make room for another run's.
            self._forget(place.file)
            return None
        except ForeignError as error:
            self._pass_over(place.file, str(error))
            return None
        except OSError as error:
            self._delete_damaged(place.file, f"cannot be read: {error.strerror}")
            return None
        is_whole = all(len(raw[name][2]) == size for name, _, _, _, size in place.arrays)
        if not is_whole or (self._sound.get(key) != found.st_ino and not self._seal.is_sound(key, raw, place.checksum)):
            self._delete_damaged(place.file, "other bytes than were written")
            return None
        self._sound[key] = found.st_ino
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
        entries: dict[str, list[Flat]] = {}
        for copy in copies:
            entries |= copy.read()
        entries |= {
            key: [Flat.of(name, value) for name, value in entry.items()]
            for key, entry in found.items()
            if key not in entries
        }
        entries = {key: entry for key, entry in entries.items() if key not in self._index}
        if not entries:
            return
        unfinished = self.folder / f".{uuid.uuid4().hex}{SUFFIX}"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            header = lay_out(entries, self._seal)
            blocks = [array.data for entry in entries.values() for array in entry]
            if not self._make_room(len(header) + sum(block.nbytes for block in blocks)):
                self._give_up(
                    f"{self.root}: no room for more features of images (features.disk_gb = "
                    f"{self.budget_bytes / 1e9:g}, {SPARE_BYTES / 1e9:g} GB of the disk left free); "
                    "further ones are kept in memory only"
                )
                return
            with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
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
            places, size = read_header(file)
        except FileNotFoundError:
            # Another run has just made room.
            return
        except OSError as error:
            self._known[file] = 0
            self.notes.append(f"{file}: cannot be read ({error.strerror}); its features are computed again")
            return
        except ForeignError as error:
            self._pass_over(file, str(error))
            return
        except ValueError as error:
            self._delete_damaged(file, str(error))
            return
        self._known[file] = size
        self._index |= places

    def _forget(self, file: Path) -> None:
        with self._lock:
            self._known.pop(file, None)
            self._index = {key: place for key, place in self._index.items() if place.file != file}

    def _pass_over(self, file: Path, found: str) -> None:
        self._forget(file)
        # Known, so that it is looked at, and told of, once.
        self._known[file] = 0
        self.notes.append(f"{file}: is {found} and not used; its features are computed again")

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
                found = file.lstat()
                # What others have in the same folder is theirs to count, and to delete.
                if why_foreign(found) is None:
                    shards.append((found.st_mtime, found.st_size, file))
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
                if file.name.startswith(".") and time.time() - file.lstat().st_mtime > ABANDONED_S:
                    file.unlink()


def user_secret(root: Path) -> tuple[bytes, str | None]:
    """Give the secret of the user's features in a folder; it is made if there is none.

    Args:
        root: The folder, which several users may share.

    Returns:
        The secret, and why it is none that lasts; None if it is.

    Raises:
        OSError: It can neither be read nor written.
    """
    file = root / f".secret-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    write_new(file, os.urandom(SECRET_BYTES))
    try:
        with open_own(file) as (opened, found):
            secret = opened.read(SECRET_BYTES + 1)
            if len(secret) == SECRET_BYTES and not found.st_mode & OTHERS_READ:
                return secret, None
            problem = "not what was written"
    except ForeignError as error:
        problem = str(error)
    return os.urandom(SECRET_BYTES), f"{file}: is {problem}; remove it"


def _shards(folder: Path) -> list[Path]:
    if folder.is_symlink() or not folder.is_dir():
        return []
    return [file for file in folder.iterdir() if FILE_NAME.fullmatch(file.name)]


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
                places[key].append((name, type_name(value), tuple(value.shape), end + 1, value.nbytes))
                end += value.nbytes
                if value.nbytes:
                    parts.append(value.reshape(-1).view(mx.uint8))
        data = mx.concatenate(parts)
        mx.async_eval(data)
        return cls(data, places)

    def read(self) -> "dict[str, list[Flat]]":
        # Lets go of the interpreter while it waits for the device; reading the bytes does not.
        mx.eval(self.data)
        data: Any = self.data
        block = memoryview(data)
        return {
            key: [Flat(name, kind, shape, block[start : start + size]) for name, kind, shape, start, size in arrays]
            for key, arrays in self.entries.items()
        }
