"""The folder of a tower's shards: which entries they hold, what is read of them, and what is deleted to make room.

A shard is written whole, under a private name, and renamed: what is unfinished is never read, and deleted once its
writer has ended (`vlora.features.unfinished`). What a shard holds is known from its header, and an entry is read from
its own place in the file, its sum compared once: plain reads, because a mapped file that another program cuts short
would end the process. A shard that is broken, or not the user's own, is passed over.
"""

import contextlib
import hashlib
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import attrs

from ..system.cache import write_new
from ..system.private import ForeignError, make_private, open_own, why_foreign
from .shard_format import EntryLocation, Flat, Raw, Seal, lay_out, read_header
from .unfinished import create_locked, publish, remove_abandoned

SPARE_BYTES = 2 * 10**9
"""Left free on the disk, whatever the budget."""

LEFT_ALONE_S = 3600.0
"""Shards used within this time are not deleted: another run may be reading them."""

SUFFIX = ".safetensors"

SECRET_BYTES = 32

OTHERS_READ = 0o077
"""Bits of a mode that let others read or write."""

FOLDER_NAME = re.compile("[0-9a-f]{40}")
FILE_NAME = re.compile(r"\.?[0-9a-f]{32}\.safetensors")
"""What folders of towers and shards are called. Nothing else below the root is ever read, counted or deleted: the
user may keep other things there, models too."""


@attrs.frozen
class DeviceMark:
    """Begins the names of the shards that one of several devices of a run writes.

    The last bits of features depend on the images that were computed with them. A device that found those of another
    one would have others than it computed before the run was stopped, so that the run would not go on to the bit. It
    takes them only behind a step that the run passes in the same way whenever it goes on: `ShardFolder.take_others`.

    Attributes:
        run: 16 hexadecimal digits, the same whenever the run goes on.
        rank: The device's.
    """

    run: str
    rank: int

    @classmethod
    def of(cls, output: Path, rank: int) -> "DeviceMark":
        """Make that of a device of the run that writes to a folder."""
        return cls(hashlib.blake2b(os.fsencode(output.resolve()), digest_size=8).hexdigest(), rank)

    @property
    def prefix(self) -> str:
        """20 hexadecimal digits."""
        return f"{self.run}{self.rank:04x}"

    def is_of_another(self, name: str) -> bool:
        """Whether a shard is of another device of the run."""
        return name.startswith(self.run) and not name.startswith(self.prefix)


@attrs.define(eq=False)
class ShardFolder:
    """Shards of one tower in a folder that several runs may use. Any thread may read and write.

    Room is made by deleting the shards that have not been used for the longest time, of all folders under the budget,
    but none that this run has used or that another run may be using.

    Attributes:
        root: The folder whose shards, of all towers together, are under the budget.
        tower: 40 hexadecimal digits, which stand for what the entries were computed with.
        budget_bytes: Of all shards below `root`.
        device: Which of several devices of a run this is; None for one device.
        notes: What went wrong and was passed over, for the log.
        is_usable: Whether anything can be written at all.
        path: The shards' own folder below `root`.
    """

    root: Path
    tower: str
    budget_bytes: int
    device: DeviceMark | None = None
    notes: list[str] = attrs.field(factory=list, init=False)
    is_usable: bool = attrs.field(default=True, init=False)
    path: Path = attrs.field(init=False)
    _seal: Seal = attrs.field(init=False)
    _index: dict[str, EntryLocation] = attrs.field(factory=dict, init=False)
    _known: dict[Path, int] = attrs.field(factory=dict, init=False)
    _used: dict[Path, float] = attrs.field(factory=dict, init=False)
    _sound: dict[str, int] = attrs.field(factory=dict, init=False)
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
        self.path = self.root / self._seal.folder_name
        problem = problem or make_private(self.path)
        if problem is not None:
            self.notes.append(f"{problem}; features are kept in memory only")
            self.is_usable = False
            return
        self._remove_abandoned()
        self.look()

    def __contains__(self, key: str) -> bool:
        """Whether there is an entry."""
        return key in self._index

    @property
    def n_bytes(self) -> int:
        """Bytes of the shards, as far as they are known here."""
        with self._lock:
            return sum(self._known.values())

    def read(self, key: str) -> Raw | None:
        """Read an entry's bytes from its shard; None if there is none, or no sound one."""
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
            self._give_up(self._pass_over, place.file, str(error))
            return None
        except OSError as error:
            self._give_up(self._delete_damaged, place.file, f"cannot be read: {error.strerror}")
            return None
        is_whole = all(len(raw[name][2]) == size for name, _, _, _, size in place.arrays)
        if not is_whole or (self._sound.get(key) != found.st_ino and not self._seal.is_sound(key, raw, place.checksum)):
            self._give_up(self._delete_damaged, place.file, "other bytes than were written")
            return None
        self._sound[key] = found.st_ino
        self._touch(place.file)
        return raw

    def write(self, entries: Mapping[str, list[Flat]]) -> str | None:
        """Write a shard of these entries.

        Returns:
            Why it could not be written; None if it was.
        """
        prefix = self.device.prefix if self.device else ""
        unfinished = self.path / f".{prefix}{uuid.uuid4().hex[len(prefix) :]}{SUFFIX}"
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            header = memoryview(lay_out(entries, self._seal))
            blocks = [header, *(array.data for entry in entries.values() for array in entry)]
            file = self._open_in_room(unfinished, sum(block.nbytes for block in blocks))
            if file is None:
                return (
                    f"{self.root}: no room for more features of images (features.disk_gb = "
                    f"{self.budget_bytes / 1e9:g}, {SPARE_BYTES / 1e9:g} GB of the disk left free); "
                    "further ones are kept in memory only"
                )
            with file:
                file.writelines(blocks)
                finished = publish(file, unfinished, unfinished.with_name(unfinished.name[1:]))
        except OSError as error:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            return f"{self.path}: cannot be written ({error.strerror}); features are kept in memory only"
        with self._lock:
            self._index |= self._take_in(finished)
        self._touch(finished)
        return None

    def look(self) -> None:
        """Take in shards that are not known yet: those of earlier runs, and of others that run now."""
        with self._lock:
            present = self._list()
            for file in sorted(present - self._known.keys()):
                if not self._is_of_another(file):
                    self._index |= self._take_in(file)
            for file in self._known.keys() - present:
                self._forget(file)

    def take_others(self) -> None:
        """Take in what the run's other devices have written until now, where this one has no entry of its own.

        Of several devices with the same entry the one of the least rank is chosen.
        """
        with self._lock:
            for file in sorted(self._list() - self._known.keys()):
                if self._is_of_another(file):
                    found = self._take_in(file)
                    self._index = {**found, **self._index}

    def _is_of_another(self, file: Path) -> bool:
        return self.device is not None and self.device.is_of_another(file.name)

    def _list(self) -> set[Path]:
        return {file for file in _shards(self.path) if not file.name.startswith(".")}

    def _take_in(self, file: Path) -> Mapping[str, EntryLocation]:
        """Take note of a shard, and give its entries; none of one that is not sound."""
        try:
            places, size = read_header(file)
        except FileNotFoundError:
            # Another run has just made room.
            return {}
        except OSError as error:
            self._known[file] = 0
            self.notes.append(f"{file}: cannot be read ({error.strerror}); its features are computed again")
            return {}
        except ForeignError as error:
            self._pass_over(file, str(error))
            return {}
        except ValueError as error:
            self._delete_damaged(file, str(error))
            return {}
        self._known[file] = size
        return places

    def _forget(self, file: Path) -> None:
        with self._lock:
            self._known.pop(file, None)
            self._index = {key: place for key, place in self._index.items() if place.file != file}

    def _give_up(self, end: Callable[[Path, str], None], file: Path, found: str) -> None:
        """Pass over or delete a shard, and tell of it once, even if several threads read it."""
        with self._lock:
            if self._known.get(file):
                end(file, found)

    def _pass_over(self, file: Path, found: str) -> None:
        self._forget(file)
        self._known[file] = 0  # so that it is looked at, and told of, once
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

    def _open_in_room(self, file: Path, size: int) -> BinaryIO | None:
        """Make room for a shard and open a file that counts with all of its bytes from now on; None without room."""
        with self._lock:
            if not self._make_room(size):
                return None
            opened = create_locked(file)
            opened.truncate(size)
            return opened

    def _make_room(self, size: int) -> bool:
        """Delete what has not been used for long until the budget has room for `size` bytes; whether it has."""
        self._remove_abandoned()
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
        if excess > sum(own for used, own, file in shards if self._may_delete(used, file)):
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

    def _may_delete(self, used: float, file: Path) -> bool:
        return file not in self._used and time.time() - used > LEFT_ALONE_S

    def _remove_abandoned(self) -> None:
        for file in self._all_shards():
            if file.name.startswith("."):
                remove_abandoned(file)


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
