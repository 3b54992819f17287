"""Entries of named arrays on disk: they wait in memory until they fill a shard, which a thread of its own writes.

Entries that were computed together are written together, in one shard: a run that is killed and goes on finds either
all of them or none. Their last bits depend on what they are computed with, and without some the others would differ.
"""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import numpy as np

from .shard_folder import DeviceMark, ShardFolder
from .shard_format import TYPES, Flat, Raw, map_at_once, to_mlx, type_name

Entry = Mapping[str, Any]
"""Names to arrays, of MLX or NumPy."""

SHARD_BYTES = 64 * 2**20
"""Buffered entries are written to disk once they reach this many bytes."""

MOST_WAITING = 4
"""Shards that wait, copied, behind the one that is being written; the thread that computes waits from then on."""

MOST_WRITERS = 4
"""Threads that write shards at once where steps wait for what is written. Most of a shard's time is its sum's."""

MOST_READERS = 8
"""Threads that read entries of one batch."""


@attrs.define(eq=False)
class ShardStore:
    """Entries in a folder. Any thread may add and read entries of host arrays; the rest is one thread's.

    Shards are written by threads of their own. While the steps of a single device go on it is one at a time: reading
    the bytes off a device keeps the steps from it. Several devices wait for one another's shards behind the first
    epoch, and write as many at a time as `flush` does. One by one, the first epoch of two H200s took 5 to 7 s more than
    its steps.

    Attributes:
        root: As of `ShardFolder`.
        tower: As of `ShardFolder`.
        budget_bytes: As of `ShardFolder`.
        device: As of `ShardFolder`.
        shard_bytes: Entries wait until they are this many bytes together, or until `flush`.
        shards: Those on disk.
    """

    root: Path
    tower: str
    budget_bytes: int
    device: DeviceMark | None = None
    shard_bytes: int = SHARD_BYTES
    shards: ShardFolder = attrs.field(init=False)
    _postponed: dict[str, Mapping[str, mx.array]] = attrs.field(factory=dict, init=False)
    _groups: deque[Sequence[str]] = attrs.field(factory=deque, init=False)
    _waiting: dict[str, Entry] = attrs.field(factory=dict, init=False)
    _copies: list["_Copies"] = attrs.field(factory=list, init=False)
    _waiting_bytes: int = attrs.field(default=0, init=False)
    _writers: tuple["_Writer", ...] = attrs.field(default=(), init=False)
    _is_full: bool = attrs.field(default=False, init=False)
    _lock: threading.RLock = attrs.field(factory=threading.RLock, init=False)

    def __attrs_post_init__(self) -> None:
        """Read what is there."""
        self.shards = ShardFolder(self.root, self.tower, self.budget_bytes, self.device)
        self._is_full = not self.shards.is_usable

    def __contains__(self, key: str) -> bool:
        """Whether there is an entry."""
        # In the order in which an entry goes from one to the next.
        return self._held(key) is not None or key in self.shards

    @property
    def notes(self) -> list[str]:
        """What went wrong and was passed over since `drain_warnings` was last called."""
        return self.shards.notes

    def drain_warnings(self) -> list[str]:
        """Give what went wrong and was passed over since this was last called."""
        notes, self.shards.notes = self.shards.notes, []
        return notes

    @property
    def written_bytes(self) -> int:
        """Bytes of the shards in the folder, as far as they are known here."""
        return self.shards.n_bytes

    def read(self, key: str) -> dict[str, mx.array] | None:
        """Read an entry; None if there is none, or no sound one."""
        held = self._held(key)
        if held is not None:
            return {name: mx.array(value) if isinstance(value, np.ndarray) else value for name, value in held.items()}
        return _to_arrays(self.shards.read(key))

    def read_all(self, keys: Sequence[str]) -> dict[str, dict[str, mx.array]]:
        """Read those of several entries that there are: at once, since comparing their sums takes the longest."""
        on_disk = [key for key in keys if self._held(key) is None and key in self.shards]
        # MLX's arrays are made by this thread: each thread that evaluates one has a stream for good.
        raws = dict(zip(on_disk, map_at_once(self.shards.read, on_disk, MOST_READERS), strict=True))
        found = {key: _to_arrays(raws[key]) if key in raws else self.read(key) for key in keys}
        return {key: entry for key, entry in found.items() if entry is not None}

    def read_host(self, key: str) -> dict[str, Any] | None:
        """Read an entry that was written from NumPy's arrays."""
        held = self._held(key)
        if held is not None:
            return dict(held)
        raw = self.shards.read(key)
        if raw is None:
            return None
        return {
            name: np.frombuffer(data, dtype=TYPES[kind][1]).reshape(shape) for name, (kind, shape, data) in raw.items()
        }

    def _held(self, key: str) -> Entry | None:
        """Give an entry that is on its way to the disk."""
        held = self._postponed.get(key) or self._waiting.get(key)
        return held or next((writer.entries[key] for writer in self._writers if key in writer.entries), None)

    def add(self, key: str, entry: Entry) -> bool:
        """Queue an entry to be written; return whether it is on disk or will be.

        One of MLX's arrays is for the thread that computes them to add: `add_computed`.
        """
        if any(isinstance(value, mx.array) for value in entry.values()):
            self.add_computed({key: entry})
            return key in self
        with self._lock:
            if key not in self and not self._is_full:
                self._waiting[key] = entry
                self._waiting_bytes += _count_bytes(entry)
            return key in self

    def add_computed(self, entries: Mapping[str, Mapping[str, mx.array]]) -> None:
        """Queue entries of MLX's arrays to be written; only for the thread that computes them.

        A copy of them is made on the device, all in one: reading an array on the host takes it off the device for good,
        and the run goes on working with these.
        """
        with self._lock:
            self._copy({key: entry for key, entry in entries.items() if key not in self})

    def postpone(self, entries: Mapping[str, Mapping[str, mx.array]]) -> None:
        """Queue entries that stay in memory to be written as fast as the disk permits; for the computing thread.

        Nothing waits for a slow disk then but `flush`, and no copy is made before there is a thread to write it.

        Args:
            entries: What was computed together.
        """
        with self._lock:
            new = {key: entry for key, entry in entries.items() if key not in self}
            if new and not self._is_full:
                self._postponed.update(new)
                self._groups.append(tuple(new))

    def advance(self) -> None:
        """Begin to write a shard if there is enough for one and a thread for it; for the thread that computes.

        It returns at once, unless more waits than may be copied.
        """
        most = 1 if self.device is None else MOST_WRITERS
        is_busy = sum(writer.thread.is_alive() for writer in self._writers) >= most
        if is_busy and self._waiting_bytes < MOST_WAITING * self.shard_bytes:
            return
        self._wait(most - 1)
        self._copy_postponed()
        if self._waiting_bytes >= self.shard_bytes:
            self._begin_to_write()

    def take_others(self) -> None:
        """Take in what the run's other devices have written until now; see `ShardFolder.take_others`."""
        self.shards.take_others()

    def flush(self) -> None:
        """Write all that waits, less than a shard too, and return when it is written."""
        while self._postponed or self._waiting:
            self._copy_postponed()
            self._wait(MOST_WRITERS - 1)
            self._begin_to_write()
        self._wait()

    def _copy_postponed(self) -> None:
        """Queue the first of the postponed entries, as many as fill a shard, and those computed with them."""
        # The thread that writes drops all of them where no more can be written.
        with self._lock:
            n_bytes = self._waiting_bytes
            chosen: dict[str, Mapping[str, mx.array]] = {}
            while n_bytes < self.shard_bytes and self._groups:
                group = {key: self._postponed[key] for key in self._groups.popleft()}
                chosen |= group
                n_bytes += sum(map(_count_bytes, group.values()))
            self._copy(chosen)
            for key in chosen:
                self._postponed.pop(key, None)

    def _copy(self, entries: Mapping[str, Mapping[str, mx.array]]) -> None:
        if entries and not self._is_full:
            self._copies.append(_Copies.of(entries))
            self._waiting |= entries
            self._waiting_bytes += sum(map(_count_bytes, entries.values()))

    def _begin_to_write(self) -> None:
        with self._lock:
            found, copies = self._waiting, self._copies
            thread = threading.Thread(target=self._write, args=(found, copies), name="vlora features")
            # In this order: a thread that looks for an entry meanwhile finds it in one of the two.
            self._writers += (_Writer(thread, found),) if found else ()
            self._waiting, self._waiting_bytes, self._copies = {}, 0, []
        if found:
            thread.start()

    def _wait(self, n_writers: int = 0) -> None:
        """Wait until at most this many threads write, for the one that began first of all."""
        self._writers = tuple(writer for writer in self._writers if writer.thread.is_alive())
        while len(self._writers) > n_writers:
            self._writers[0].thread.join()
            self._writers = self._writers[1:]

    def _write(self, found: Mapping[str, Entry], copies: "Sequence[_Copies]") -> None:
        self.shards.look()
        entries: dict[str, list[Flat]] = {}
        for copy in copies:
            entries |= copy.read()
        entries |= {
            key: [Flat.of(name, value) for name, value in entry.items()]
            for key, entry in found.items()
            if key not in entries
        }
        entries = {key: entry for key, entry in entries.items() if key not in self.shards}
        problem = self.shards.write(entries) if entries else None
        if problem is not None:
            with self._lock:
                if not self._is_full:
                    self.notes.append(problem)
                self._is_full = True
                self._postponed, self._copies = {}, []
                self._groups.clear()
                self._waiting, self._waiting_bytes = {}, 0


def _to_arrays(raw: Raw | None) -> dict[str, mx.array] | None:
    return None if raw is None else {name: to_mlx(*value) for name, value in raw.items()}


def _count_bytes(entry: Entry) -> int:
    return sum(value.nbytes for value in entry.values())


@attrs.frozen(eq=False)
class _Writer:
    """A thread that writes a shard, and the entries that are read from here until it is waited for."""

    thread: threading.Thread
    entries: Mapping[str, Entry]


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
        # Evaluating releases the interpreter while it waits for the device; reading the bytes does not.
        mx.eval(self.data)
        data: Any = self.data
        block = memoryview(data)
        return {
            key: [Flat(name, kind, shape, block[start : start + size]) for name, kind, shape, start, size in arrays]
            for key, arrays in self.entries.items()
        }
