"""Which images of a batch are the same, where images go through the tower together: each goes through it once. Pure."""

from collections.abc import Sequence

import mlx.core as mx


def find_owners(keys: Sequence[str], n_images: int) -> list[int]:
    """Say of each image at which place it stands first; where not all have keys, all are taken for different ones."""
    if len(keys) != n_images:
        return list(range(n_images))
    firsts: dict[str, int] = {}
    return [firsts.setdefault(key, place) for place, key in enumerate(keys)]


def find_shown(owners: Sequence[int]) -> dict[int, list[int]]:
    """Say of each image that is computed at which places it is shown."""
    shown: dict[int, list[int]] = {}
    for place, owner in enumerate(owners):
        shown.setdefault(owner, []).append(place)
    return shown


def add_up(arrays: Sequence[mx.array]) -> mx.array:
    """Add arrays up; a single one is given as it is."""
    total = arrays[0]
    for array in arrays[1:]:
        total = total + array
    return total
