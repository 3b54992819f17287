"""Finds and deletes damaged kernels on disk: MLX loads any file that has a kernel's name.

A compiler that was killed leaves part of a file under that name, and a disk may return other bytes. Loading either ends
the run, or the process, at every start. So the files are checked before MLX loads them. The checksum of a file is
recorded when it is first seen complete; a file with another checksum is deleted, and compiled again.
"""

import hashlib
import json
import re
import struct
import time
from pathlib import Path

from ..system.cache import write_whole

LONGEST_WAIT_S = 20.0
SETTLED_S = 5.0
"""Seconds without a change after which an incomplete file is not being written by another process."""

ELF = b"\x7fELF\x02\x01"
"""Magic number of 64-bit little-endian ELF libraries; other libraries are not checked for completeness."""

NO_BITS = 8
"""Type of ELF sections without bytes in the file."""


def drop_damaged(folder: Path, sums: Path, pattern: str) -> list[Path]:
    """Delete the files of kernels that are damaged.

    Args:
        folder: The kernels' folder.
        sums: The file with the checksums.
        pattern: Pattern of the kernels' file names: "*.so" or "**/*.ptx".

    Returns:
        The deleted files.
    """
    known = _read(sums)
    found: dict[str, str] = {}
    damaged = []
    seen: dict[int, str | None] = {}
    for file in sorted(folder.glob(pattern)):
        try:
            inode = file.stat().st_ino
            if inode not in seen:
                # Most are links to one library, which is read once.
                seen[inode] = _sum_up(file)
        except OSError:
            # Another process has deleted it.
            continue
        name, made = str(file.relative_to(folder)), seen[inode]
        if made is None or known.get(name, made) != made:
            file.unlink(missing_ok=True)
            damaged.append(file)
        else:
            found[name] = made
    if found != known:
        write_whole(sums, json.dumps(found).encode())
    return damaged


def is_whole(content: bytes) -> bool:
    """Whether a kernel's file is complete: a library has all its sections, PTX its last brace."""
    if content.startswith(b"\x7fELF"):
        return _is_whole_library(content)
    return b"{" in content and content.count(b"{") == content.count(b"}")


def _is_whole_library(content: bytes) -> bool:
    if len(content) < len(ELF):
        return False
    if not content.startswith(ELF):
        return True
    try:
        (start,) = struct.unpack_from("<Q", content, 40)
        size, n_sections = struct.unpack_from("<HH", content, 58)
        if not start or not n_sections or start + size * n_sections > len(content):
            return False
        for number in range(n_sections):
            kind, _, _, offset, length = struct.unpack_from("<IQQQQ", content, start + size * number + 4)
            if kind != NO_BITS and offset + length > len(content):
                return False
    except struct.error:
        return False
    return True


def _becomes_whole(file: Path) -> bool:
    """Wait for a file that another process is writing; return whether it is complete in the end."""
    end = time.monotonic() + LONGEST_WAIT_S
    while time.monotonic() < end:
        try:
            if is_whole(file.read_bytes()):
                return True
            if time.time() - file.stat().st_mtime > SETTLED_S:
                return False
        except OSError:
            return False
        time.sleep(0.1)
    return False


def _sum_up(file: Path) -> str | None:
    """Return the checksum of a file; None if it is incomplete."""
    content = file.read_bytes()
    if not is_whole(content):
        if not _becomes_whole(file):
            return None
        content = file.read_bytes()
    return hashlib.blake2b(content, digest_size=20).hexdigest()


def _read(sums: Path) -> dict[str, str]:
    try:
        known = json.loads(sums.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {name: made for name, made in known.items() if isinstance(made, str) and re.fullmatch("[0-9a-f]{40}", made)}
