"""Keys kept at the places that they have in training."""

import mlx.core as mx
import numpy as np
import pytest

from vlora.models.generation.kept_keys import KeptKeys, seen_from


def test_answers_are_written_over_the_padding() -> None:
    """Rows of unequal length have their next keys where their own tokens end; nothing else changes."""
    cache = KeptKeys(length=6)
    prompts = mx.arange(2 * 3 * 4, dtype=mx.float32).reshape(2, 1, 3, 4)
    keys, values = cache.update_and_fetch(prompts, prompts + 1)
    assert mx.array_equal(keys, prompts)
    assert mx.array_equal(values, prompts + 1)

    cache.places, cache.reach = mx.array([3, 1]), 4
    found, _ = cache.update_and_fetch(mx.full((2, 1, 1, 4), -1.0), mx.full((2, 1, 1, 4), -2.0))

    assert found.shape == (2, 1, 4, 4)
    assert np.array(found)[0, 0, :, 0].tolist() == [0, 4, 8, -1]
    assert np.array(found)[1, 0, :, 0].tolist() == [12, -1, 20, 0]
    assert cache.offset is cache.places


@pytest.mark.parametrize(
    ("window", "expected"), [(None, [[1, 1, 1, 0], [1, 1, 0, 0]]), (2, [[0, 1, 1, 0], [1, 1, 0, 0]])]
)
def test_a_token_sees_its_own_row_so_far(window: int | None, expected: list[list[int]]) -> None:
    """No padding behind it, and nothing before its window."""
    assert np.array(seen_from(mx.array([2, 1]), 4, window))[:, 0, 0].astype(int).tolist() == expected


def test_masks_are_mlx_vlms_while_prompts_are_read() -> None:
    """What a model asks for is what it would have made without a cache."""
    cache = KeptKeys(length=6)
    assert cache.make_mask(1) is None
    assert cache.make_mask(3) == "causal"
    assert cache.make_mask(3, window_size=3) == "causal"
    assert cache.make_mask(3, window_size=2).tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    assert cache.make_mask(2, return_array=True).tolist() == [[1, 0], [1, 1]]
    assert cache.seen() is None


def test_keys_are_made_before_they_are_shared() -> None:
    """A layer that reads another one's keys too early is an error, and no empty row."""
    with pytest.raises(RuntimeError, match="before they are made"):
        _ = KeptKeys(length=2).state
