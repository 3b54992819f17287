"""Random keys of dropout: which inputs a step drops depends on the seed and the step's number alone. Pure."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn

from ..adapters.attached import lora_layers


@contextmanager
def dropout_keys(module: nn.Module, key: mx.array | None) -> Iterator[None]:
    """Give every adapter its own random key; None switches dropout off.

    Explicit keys, because a checkpointed layer runs twice and has to drop the same inputs both times.
    """
    layers = [layer for _, layer in lora_layers(module)]
    keys = [None] * len(layers) if key is None or not layers else mx.random.split(key, len(layers))
    try:
        for layer, own in zip(layers, keys, strict=True):
            layer._dropout_key = own  # noqa: SLF001
        yield
    finally:
        for layer in layers:
            layer._dropout_key = None  # noqa: SLF001


MakeKey = Callable[[int, mx.array], mx.array]
"""Makes the random key of a microbatch from its number and i32[], the steps done: u32[2]."""


def key_of_some_bits(seed: int) -> MakeKey:
    """Make keys as older runs do: seeds that differ by a multiple of 2**20 share them."""
    return lambda index, step: mx.stack([mx.array(seed * 4096 + index), step]).astype(mx.uint32)


def key_of_all(seed: int) -> MakeKey:
    """Make keys that differ for every microbatch of every step, and for every seed: each begins at a place of its own.

    The place is a digest of the seed, 64 bits; that two of 10,000 seeds have places so close that one's steps come
    upon those of the other is less likely than 1 in 10**5.
    """
    digest = hashlib.blake2b(str(seed).encode(), digest_size=8).digest()
    place = [int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")]
    return lambda index, step: mx.array(place, dtype=mx.uint32) + mx.stack([mx.array(index), step]).astype(mx.uint32)


KEYS: Mapping[int, Callable[[int], MakeKey]] = {1: key_of_some_bits, 2: key_of_all}
"""By the version of the rule `dropout_keys`."""
