"""Keys that stand for bytes: of images, of weights, of code."""

import hashlib
from collections.abc import Iterable


def digest(parts: Iterable[bytes | memoryview]) -> str:
    """Make a key of some bytes."""
    sums = hashlib.blake2b(digest_size=20)
    for part in parts:
        sums.update(len(part).to_bytes(8, "little"))
        sums.update(part)
    return sums.hexdigest()
