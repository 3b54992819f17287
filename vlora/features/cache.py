"""Features of images, kept: a frozen tower gives the same for the same image every epoch.

An entry is what the tower made of one image (or of one row, in families whose images are not embedded apart), under a
key that stands for the image's content and its preparation. Entries stay in memory up to one budget and on disk up
to another; what fits in neither is computed again. Nothing is thrown out of memory to make room: rows come in a new
order every epoch, so that every entry is as likely to be asked for as the one it would make room for.
"""

import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import mlx.core as mx

from ..events import FeatureCounts
from ..system.digests import digest
from .shard_format import array_bytes
from .shard_store import ShardStore

Entry = dict[str, mx.array]


@attrs.define(eq=False)
class FeatureCache:
    """Entries in memory and on disk.

    Attributes:
        memory_bytes: Budget in memory.
        shards: The disk's; None for memory alone.
        counts: What was asked for so far, and what is held.
    """

    memory_bytes: int
    shards: ShardStore | None = None
    _entries: dict[str, Entry] = attrs.field(factory=dict, init=False)
    _host_entries: dict[str, Mapping[str, Any]] = attrs.field(factory=dict, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _held_bytes: int = attrs.field(default=0, init=False)
    _loaded: dict[str, Entry] = attrs.field(factory=dict, init=False)
    _asked: dict[str, int] = attrs.field(factory=lambda: dict.fromkeys(("memory", "disk", "computed"), 0), init=False)

    def __contains__(self, key: str) -> bool:
        """Whether there is an entry, in memory or on disk."""
        return key in self._entries or (self.shards is not None and key in self.shards)

    @property
    def counts(self) -> FeatureCounts:
        """What was asked for so far, and what is held."""
        return FeatureCounts(
            n_memory=self._asked["memory"],
            n_disk=self._asked["disk"],
            n_computed=self._asked["computed"],
            memory_bytes=self._held_bytes,
            disk_bytes=0 if self.shards is None else self.shards.written_bytes,
        )

    def get(self, key: str, n_images: int = 1) -> Entry | None:
        """Find an entry; None if it has to be computed.

        Args:
            key: Its key.
            n_images: For how many images it stands; 0 if they have been counted.
        """
        if self.shards is not None:
            # Of epochs before, where the disk is slower than the steps.
            self.shards.advance()
        if key in self._entries:
            self._asked["memory"] += n_images
            return self._entries[key]
        entry = self._loaded.pop(key, None)
        if entry is None and self.shards is not None:
            entry = self.shards.read(key)
        if entry is None:
            self._asked["computed"] += n_images
            return None
        self._asked["disk"] += n_images
        self._hold(key, entry)
        return entry

    def load(self, keys: Iterable[str]) -> None:
        """Read entries that are on disk only, before they are asked for; safe to call from any thread.

        What is read is given out once: rows that are encoded ahead ask for it soon.
        """
        if self.shards is not None:
            wanted = [key for key in keys if key not in self._entries and key not in self._loaded]
            self._loaded |= self.shards.read_all(wanted)

    def put(self, entries: Mapping[str, Mapping[str, mx.array]]) -> None:
        """Keep entries where there is room. They are evaluated asynchronously."""
        if not entries:
            return
        held = {key: dict(entry) for key, entry in entries.items()}
        # All at once: what is asked for one by one is handed to the device one by one. Not later: an entry would hold
        # on to all that it is computed from.
        mx.async_eval(held)
        are_in_memory = [self._hold(key, entry) for key, entry in held.items()]
        if self.shards is not None:
            # What was computed together is written together.
            if all(are_in_memory):
                self.shards.postpone(held)
            else:
                self.shards.add_computed(held)
            self.shards.advance()

    def get_host(self, key: str) -> Mapping[str, Any] | None:
        """Find an entry of host arrays; safe to call from any thread."""
        found = self._host_entries.get(key)
        return found if found is not None or self.shards is None else self.shards.read_host(key)

    def put_host(self, key: str, entry: Mapping[str, Any]) -> None:
        """Keep an entry of host arrays where there is room, on disk first; safe to call from any thread."""
        if (self.shards is None or not self.shards.add(key, entry)) and self._has_room(entry):
            self._host_entries[key] = entry

    def flush(self) -> None:
        """Write to disk what still waits in memory."""
        if self.shards is not None:
            self.shards.flush()

    def take_others(self) -> None:
        """Take in what the run's other devices have written to disk; see `ShardFolder.take_others`."""
        if self.shards is not None:
            self.shards.take_others()

    def drain_warnings(self) -> list[str]:
        """Give what went wrong and was passed over since this was last asked."""
        return [] if self.shards is None else self.shards.drain_warnings()

    def _hold(self, key: str, entry: Entry) -> bool:
        """Keep an entry in memory where there is room; whether it is there."""
        if key not in self._entries and self._has_room(entry):
            self._entries[key] = entry
        return key in self._entries

    def _has_room(self, entry: Mapping[str, Any]) -> bool:
        """Take an entry's bytes from the budget, if it has them."""
        size = sum(array.nbytes for array in entry.values())
        with self._lock:
            if self._held_bytes + size > self.memory_bytes:
                return False
            self._held_bytes += size
            return True


def digest_arrays(arrays: Mapping[str, mx.array]) -> str:
    """Make a key of some weights: names, types, shapes and values."""
    names = sorted(arrays)
    mx.eval([arrays[name] for name in names])
    labels = [f"{name} {arrays[name].dtype} {arrays[name].shape}".encode() for name in names]
    # Views of what is there already. Hashing lets go of the interpreter: several are hashed at once.
    blocks = [array_bytes(arrays[name]) for name in names]
    with ThreadPoolExecutor() as pool:
        sums = pool.map(lambda label, block: digest([label, block]).encode(), labels, blocks)
        return digest(sums)
