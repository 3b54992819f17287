"""The arrays of caches of all kinds."""

from types import SimpleNamespace

import mlx.core as mx
from mlx_vlm.models.cache import ArraysCache, CacheList, KVCache

from vlora.estimate.caches import find_arrays, put_arrays
from vlora.models.generation.kept_keys import KeptKeys


def test_arrays_are_found_and_replaced() -> None:
    """In attributes, in lists, and in caches of several kinds that one layer has; numbers beside them stay."""
    states, keys, kept = ArraysCache(2), KVCache(), KeptKeys(length=4)
    states[0] = mx.zeros((1, 2))
    keys.update_and_fetch(mx.zeros((1, 1, 3, 2)), mx.zeros((1, 1, 3, 2)))
    kept.update_and_fetch(mx.zeros((1, 1, 3, 2)), mx.zeros((1, 1, 3, 2)))
    caches = [CacheList(states, keys), kept, SimpleNamespace(empty=None)]
    found = find_arrays(caches)
    put_arrays(caches, [value + 1 for value in found])

    assert len(found) == 5
    assert float(states[0].sum()) == 2
    assert float(keys.keys.min()) == float(keys.values.min()) == 1
    assert keys.offset == 3
    assert kept.keys is not None
    assert float(kept.keys.min()) == 1
