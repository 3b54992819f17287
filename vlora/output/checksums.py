"""Checksums of files of arrays, kept in the files' own headers: one that is not what was written is known by it."""

import errno
import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs

FIELD = "checksum"
"""The name of the checksum among a file's notes."""

BLANK = "0" * 64
"""Stands where the checksum is going to stand; what is summed has it there."""

SEAL = {FIELD: BLANK, "sealed": "1"}
"""What a file's notes have before it is sealed. Two: damage to the name of one is no file that never had a checksum."""

BLOCK_BYTES = 2**24
LENGTH_BYTES = 8
"""Bytes of a safetensors file that say how long its header is."""

_STANDS = re.compile(rf'"{FIELD}"\s*:\s*"([0-9a-f]{{{len(BLANK)}}})"'.encode())
_CLAIMS = tuple(f'"{name}"'.encode() for name in SEAL)


@attrs.frozen
class _Header:
    """The beginning of a file of arrays.

    Attributes:
        raw: Its bytes, the length included.
        place: Where the checksum stands; None if there is none.
    """

    raw: bytes
    place: int | None

    @property
    def is_sealed(self) -> bool:
        """Whether the file claims to have a checksum."""
        return any(claim in self.raw for claim in _CLAIMS)

    @property
    def checksum(self) -> str:
        """The checksum that the file has."""
        return "" if self.place is None else self.raw[self.place : self.place + len(BLANK)].decode()

    def blank(self) -> bytes:
        """Give the bytes without the checksum."""
        if self.place is None:
            return self.raw
        return self.raw[: self.place] + BLANK.encode() + self.raw[self.place + len(BLANK) :]

    def size(self) -> int:
        """Return the size of the whole file in bytes."""
        entries = json.loads(self.raw[LENGTH_BYTES:])
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        return len(self.raw) + max(ends, default=0)


def seal(path: Path) -> None:
    """Put the checksum of a file that was just written where it has left room for it.

    Args:
        path: A safetensors file, among whose notes are those of `SEAL`.

    Raises:
        OSError: The file is shorter than its header says: only a part of it was written.
    """
    header = _read_header(path)
    size = path.stat().st_size
    if header is None or header.place is None or header.size() != size:
        raise OSError(errno.EIO, f"only {size:,} bytes of it were written", str(path))
    with path.open("r+b") as file:
        file.seek(header.place)
        file.write(_digest(path, header).encode())


def is_damaged(path: Path) -> bool:
    """Whether a file has a checksum, and another one is due; a file without one, as older ones are, is not judged."""
    header = _read_header(path)
    return header is not None and header.is_sealed and header.checksum != _digest(path, header)


def _read_header(path: Path) -> _Header | None:
    """Read the header of a file; None if it has none."""
    with path.open("rb") as file:
        length = file.read(LENGTH_BYTES)
        n_bytes = int.from_bytes(length, "little")
        if len(length) < LENGTH_BYTES or n_bytes > path.stat().st_size:
            return None
        raw = length + file.read(n_bytes)
    found = _STANDS.search(raw)
    return _Header(raw, None if found is None else found.start(1))


def _digest(path: Path, header: _Header) -> str:
    """Sum a file up, block by block; several at once, since hashing lets go of the interpreter."""
    start = len(header.raw)
    offsets = range(start, path.stat().st_size, BLOCK_BYTES)

    def digest_block(offset: int) -> bytes:
        with path.open("rb") as file:
            file.seek(offset)
            return hashlib.sha256(file.read(BLOCK_BYTES)).digest()

    whole = hashlib.sha256(header.blank())
    if len(offsets) > 1:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            digests = list(pool.map(digest_block, offsets))
    else:
        digests = [digest_block(offset) for offset in offsets]
    for digest in digests:
        whole.update(digest)
    return whole.hexdigest()
