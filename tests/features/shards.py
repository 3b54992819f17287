"""Shards that the tests of `vlora.features` write."""

from pathlib import Path
from typing import Any

import mlx.core as mx

from vlora.features import shard_format
from vlora.models import ShardStore

TOWER, OTHER = "a" * 40, "b" * 40


def opened(folder: Path, budget: int = 10**9, **options: Any) -> ShardStore:
    """Open the entries of one tower."""
    return ShardStore(folder, TOWER, budget, **options)


def entry(seed: int, size: int = 1000) -> dict[str, mx.array]:
    """Make an entry of two arrays."""
    return {"0": mx.random.normal((size,), key=mx.random.key(seed)), "1": mx.array([seed])}


def is_equal(found: dict[str, mx.array] | None, expected: dict[str, mx.array]) -> bool:
    """Whether an entry is there, bit for bit."""
    return (
        found is not None
        and found.keys() == expected.keys()
        and all(
            found[name].dtype == value.dtype
            and found[name].shape == value.shape
            and shard_format.array_bytes(found[name]) == shard_format.array_bytes(value)
            for name, value in expected.items()
        )
    )


def written(folder: Path, tower: str = TOWER) -> tuple[ShardStore, Path]:
    """Write one entry; give who wrote it, and the file."""
    subject = ShardStore(folder, tower, 10**9)
    subject.add("key", entry(1))
    subject.flush()
    (file,) = subject.shards.path.glob("*.safetensors")
    return subject, file
