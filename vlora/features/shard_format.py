"""The format of a shard: safetensors, with a sum for each entry that only its user can make.

A file is not trusted for being there. It has to be a regular one, the user's own, that no other user may write; its
header has to fit its size before a number of it is used; and an entry has to have the sum that the user's secret makes
of it, so that what was made elsewhere, for another tower or by another user is not taken for features.
"""

import hashlib
import hmac
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import attrs
import mlx.core as mx
import numpy as np

from ..system.private import open_own

Raw = dict[str, tuple[str, tuple[int, ...], bytes]]
"""Names to (type, shape, bytes) as they are in the file."""

Item = TypeVar("Item")

FORMAT = "vlora features 2"

LONGEST_HEADER = 10**8
"""Bytes, as safetensors' format bounds them."""

SUM_BYTES = 16

MOST_SUMMING = 8
"""Threads that make the sums of a shard's entries: hashing lets go of the interpreter, and takes most of the time that
several devices wait for one another's shards."""

SUM = re.compile(f"[0-9a-f]{{{2 * SUM_BYTES}}}")

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
    "C64": (mx.complex64, "complex64"),
}
"""Names of types in safetensors' format: MLX's and NumPy's, which has no bfloat16."""

NAMES = {mlx: name for name, (mlx, _) in TYPES.items()}
"""MLX's types to their names in safetensors' format."""

_NUMPY_NAMES = {numpy: name for name, (_, numpy) in TYPES.items() if numpy}


@attrs.frozen
class EntryLocation:
    """Where an entry lies.

    Attributes:
        file: The shard.
        arrays: (name, type, shape, first byte in the file, bytes) of each array.
        checksum: Of all names, types, shapes and bytes, in this order.
    """

    file: Path
    arrays: tuple[tuple[str, str, tuple[int, ...], int, int], ...]
    checksum: str


@attrs.frozen(eq=False)
class Flat:
    """An array as it is written."""

    name: str
    kind: str
    shape: tuple[int, ...]
    data: memoryview

    @classmethod
    def of(cls, name: str, value: Any) -> "Flat":
        """Flatten an array of MLX or NumPy."""
        return cls(name, type_name(value), tuple(value.shape), array_bytes(value))


@attrs.frozen(repr=False)
class Seal:
    """Makes the sums of a user's entries.

    Attributes:
        secret: The user's.
        tower: What the entries are features of.
    """

    secret: bytes
    tower: str

    @property
    def folder_name(self) -> str:
        """40 hexadecimal digits: users who share a folder have folders of their own in it."""
        return hashlib.blake2b(self.tower.encode(), key=self.secret, digest_size=20).hexdigest()

    def sum(self, key: str, arrays: Iterator[tuple[str, str, tuple[int, ...], Any]]) -> str:
        """Make the sum of an entry of (name, type, shape, bytes)."""
        sums = hashlib.blake2b(key=self.secret, digest_size=SUM_BYTES)
        for name, kind, shape, data in arrays:
            sums.update(json.dumps([self.tower, key, name, kind, shape]).encode())
            sums.update(data)
        return sums.hexdigest()

    def is_sound(self, key: str, raw: Raw, checksum: str) -> bool:
        """Whether an entry that was read is the one that was written."""
        return hmac.compare_digest(self.sum(key, ((name, *value) for name, value in raw.items())), checksum)


def lay_out(entries: Mapping[str, list[Flat]], seal: Seal) -> bytes:
    """Make the header of entries whose bytes follow it in order."""

    def make_sum(key: str) -> str:
        return seal.sum(key, ((array.name, array.kind, array.shape, array.data) for array in entries[key]))

    checksums = dict(zip(entries, map_at_once(make_sum, list(entries), MOST_SUMMING), strict=True))
    header: dict[str, Any] = {}
    end = 0
    for key, entry in entries.items():
        for array in entry:
            start, end = end, end + array.data.nbytes
            header[f"{key}:{array.name}"] = {
                "dtype": array.kind,
                "shape": list(array.shape),
                "data_offsets": [start, end],
            }
    text = json.dumps({"__metadata__": {"format": FORMAT, **checksums}, **header}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def map_at_once(function: Callable[[str], Item], keys: Sequence[str], n_threads: int) -> list[Item]:
    """Give what a function gives for each key, computed by so many threads; by this one where the interpreter ends."""
    if len(keys) < 2:  # noqa: PLR2004 - a thread for one
        return [function(key) for key in keys]
    with ThreadPoolExecutor(min(n_threads, len(keys))) as pool:
        try:
            begun = [pool.submit(function, key) for key in keys]
        except RuntimeError:
            # It takes no more work then, while threads that write are still waited for.
            begun = []
        if begun:
            return [own.result() for own in begun]
    return [function(key) for key in keys]


def read_header(file: Path) -> tuple[dict[str, EntryLocation], int]:
    """Read what a shard holds, and its size in bytes.

    Raises:
        ValueError: It is not whole, or no shard.
        ForeignError: It is not the user's alone.
        OSError: It cannot be read.
    """
    with open_own(file) as (stream, found):
        size = found.st_size
        length = int.from_bytes(stream.read(8), "little")
        if length + 8 > size or length > LONGEST_HEADER:
            msg = "it ends within its header"
            raise ValueError(msg)
        text = stream.read(length)
    try:
        header = json.loads(text)
        checksums = header.pop("__metadata__")
        if checksums.pop("format") != FORMAT or not all(map(SUM.fullmatch, checksums.values())):
            msg = "it is no shard of features"
            raise ValueError(msg)
        arrays: dict[str, list[tuple[str, str, tuple[int, ...], int, int]]] = {key: [] for key in checksums}
        for label, array in header.items():
            key, _, name = label.partition(":")
            arrays[key].append((name, *_read_place(array, 8 + length, size)))
    except (KeyError, TypeError, AttributeError, RecursionError):
        msg = "its header is not a shard's"
        raise ValueError(msg) from None
    return {key: EntryLocation(file, tuple(own), checksums[key]) for key, own in arrays.items()}, size


def _read_place(array: Any, begin: int, size: int) -> tuple[str, tuple[int, ...], int, int]:
    """Give type, shape, first byte and bytes of an array, as its header has them, if the file can hold it.

    Raises:
        ValueError: It cannot.
    """
    kind, shape, (start, end) = array["dtype"], array["shape"], array["data_offsets"]
    numbers = [start, end, *shape]
    if kind not in TYPES or any(type(number) is not int or number < 0 for number in numbers):
        msg = "its header is not a shard's"
        raise ValueError(msg)
    if end - start != math.prod(shape) * np.dtype(TYPES[kind][1] or "uint16").itemsize:
        msg = "an array has other bytes than its shape"
        raise ValueError(msg)
    if begin + end > size:
        msg = f"it ends before {begin + end} bytes"
        raise ValueError(msg)
    return kind, tuple(shape), begin + start, end - start


def type_name(value: Any) -> str:
    """Name the type of an array of MLX or NumPy as safetensors' format does."""
    return NAMES[value.dtype] if isinstance(value, mx.array) else _NUMPY_NAMES[str(value.dtype)]


def array_bytes(value: Any) -> memoryview:
    """Give an array's bytes in order, without a copy where it has them so."""
    if not value.size:
        return memoryview(b"")
    flat: Any = value if isinstance(value, mx.array) else np.ascontiguousarray(value)
    return memoryview(flat.reshape(-1).view(mx.uint8 if isinstance(value, mx.array) else np.uint8))


def to_mlx(kind: str, shape: tuple[int, ...], data: bytes) -> mx.array:
    """Make an array that any thread may use: what is computed for it is so at once, and on a named stream."""
    dtype, numpy = TYPES[kind]
    host = np.frombuffer(data, dtype=numpy or np.uint16) if data else np.zeros(0, dtype=numpy or np.uint16)
    array = mx.array(host.reshape(shape), dtype=dtype if numpy else mx.uint16)
    if not numpy:
        array = mx.view(array, dtype, stream=mx.cpu)
    mx.eval(array)
    return array
