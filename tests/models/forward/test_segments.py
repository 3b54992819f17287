"""Packed examples in shorter rows: each place once, there and back, with the gradients of rows apart."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.prove import make_subject, packed_logits
from tests.training import make_trainable
from vlora import collate, collate_packed
from vlora.models.forward import segments
from vlora.models.forward.overrides import ATTENTION, model_files
from vlora.models.forward.segments import MORE_PARTS, N_PARTS, PLACES, ROWS, SHARED, Apart, place_apart
from vlora.ops.buckets import bucket_length
from vlora.ops.functional import move

SPANS = [(0, 0, 30), (0, 30, 20), (0, 50, 31), (0, 81, 9), (1, 0, 28), (1, 28, 30), (1, 58, 25)]


@given(st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=6), min_size=1, max_size=3), st.integers(0, 30))
def test_every_place_moves_there_and_back(packs: list[list[int]], padding: int) -> None:
    """Examples do not overlap; padding has no place; few shapes are traced, which have few places besides."""
    length = bucket_length(max(map(sum, packs)) + padding)
    ends = [[sum(pack[:count]) for count in range(len(pack))] for pack in packs]
    spans = [(row, end, size) for row, pack in enumerate(packs) for end, size in zip(ends[row], pack, strict=True)]
    found = place_apart(spans, len(packs), length)
    if not found:
        return
    rows, places = np.array(found[ROWS]), np.array(found[PLACES])
    shared = np.array(found.get(SHARED, rows >= 0))
    where = places.reshape(-1)

    assert places.shape == (len(packs), length)
    assert len(rows) * rows.shape[1] ** 2 <= segments.MOST_SCORES * len(packs) * length**2
    assert len(rows) in {math.ceil(len(packs) * parts * more) for parts in N_PARTS for more in MORE_PARTS}
    assert ((shared > 0) == (rows >= 0)).all()
    for row, start, count in spans:
        first = row * length + start
        assert (np.diff(where[first : first + count]) == 1).all()
        assert len({place // rows.shape[1] for place in where[first : first + count]}) == 1
        assert len({shared.reshape(-1)[place] for place in where[first : first + count]}) == 1
    kept = where >= 0
    assert kept.sum() == (rows >= 0).sum() == sum(map(sum, packs))
    assert (rows.reshape(-1)[where[kept]] == np.flatnonzero(kept)).all()


def test_a_mask_over_whole_packs_stays_where_it_takes_less() -> None:
    """One example alone, and one long among many short ones."""
    assert not place_apart([(0, 0, 100)], 1, 128)
    assert not place_apart([(0, 0, 400), *((0, 400 + place, 1) for place in range(12))], 1, 416)
    assert place_apart(SPANS, 2, 128)


def test_examples_of_all_lengths_take_few_shapes() -> None:
    """Of packs that are about full, whose examples are few or many; a row for each would take many more places."""
    draw, shapes = random.Random(1), set()
    for _ in range(200):
        counts: list[int] = []
        while sum(counts) + (count := min(700, max(8, int(draw.lognormvariate(5, 0.6))))) <= 2048:
            counts.append(count)
        spans = [(0, sum(counts[:number]), count) for number, count in enumerate(counts)]
        found = place_apart(spans, 1, 2048)
        if found:
            shapes.add((found[ROWS].shape, SHARED in found))

    assert 2 <= len(shapes) <= 8
    assert all(n_rows * width <= 1.5 * 2048 for (n_rows, width), _ in shapes)


@pytest.mark.parametrize("is_adjacent", [False, True])
@pytest.mark.parametrize(("length", "is_shared"), [(64, False), (96, True)])
def test_gradients_move_back(length: int, is_shared: bool, is_adjacent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are those of attention under a mask, and nothing reaches a place of padding; in both layouts of heads."""
    monkeypatch.setattr(segments, "MOST_SCORES", 1.0)
    n_heads, width, n_rows = 2, 8, 2
    chosen = SPANS if is_shared else [(0, 0, 30), (0, 30, 20), (1, 0, 28), (1, 28, 30)]
    found = place_apart(chosen, n_rows, length)
    assert (SHARED in found) is is_shared
    numbers = np.zeros((n_rows, length), dtype=np.int32)
    for number, (row, start, count) in enumerate(chosen, start=1):
        numbers[row, start : start + count] = number
    ids = mx.array(numbers)
    parts = [mx.random.normal((n_rows, n_heads, length, width), key=mx.random.key(seed)) for seed in range(4)]
    counted = (ids > 0)[:, None, :, None]

    def attend(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | str) -> mx.array:
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.3, mask=mask)

    def attend_or_tell(*given: Any) -> mx.array:
        assert given[3:5] == (None, 0.3)
        return attend(given[0], given[1], given[2], given[5])

    def adjacent(*parts: mx.array) -> mx.array:
        queries, keys, values = (part.transpose(0, 2, 1, 3) for part in parts[:3])
        flat = values.reshape(n_rows * length, n_heads * width)
        mask = Apart(*found.values())
        queries, keys = (move(part, mask.rows, mask.places) for part in (queries, keys))
        mixed = segments.attend_heads(segments._attend_apart(attend_or_tell), queries, keys, flat, 0.3, mask)
        assert mixed.shape == flat.shape
        return (mixed.reshape(n_rows, length, n_heads, width).transpose(0, 2, 1, 3) * parts[3] * counted).sum()

    def apart(*parts: mx.array) -> mx.array:
        call = segments._attend_apart(attend_or_tell)
        return (call(*parts[:3], None, 0.3, mask=Apart(*found.values())) * parts[3] * counted).sum()

    def masked(*parts: mx.array) -> mx.array:
        return (attend(parts[0], parts[1], parts[2], segments_mask(ids)) * parts[3] * counted).sum()

    loss, gradients = mx.value_and_grad(adjacent if is_adjacent else apart, argnums=(0, 1, 2))(*parts)
    expected_loss, expected = mx.value_and_grad(masked, argnums=(0, 1, 2))(*parts)

    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-5)
    for found_gradient, value in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(np.array(found_gradient), np.array(value), atol=1e-5)
        assert (np.array(found_gradient)[np.broadcast_to(~np.array(counted), value.shape)] == 0).all()


def segments_mask(ids: mx.array) -> mx.array:
    """Make a mask by hand."""
    place = mx.arange(ids.shape[1])
    return ((ids[:, :, None] == ids[:, None, :]) & (place[:, None] >= place[None]))[:, None]


@pytest.mark.parametrize(("family", "is_causal"), [("qwen3_vl", True), ("llava", True), ("gemma3", False)])
def test_attention_is_apart_where_all_of_it_is_causal(
    family: str, is_causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked within the step's corrections too, and with the logits of a mask; others keep their masks."""
    monkeypatch.setattr(segments, "MOST_SCORES", float("inf"))
    subject = make_subject(family)
    before = [getattr(file, ATTENTION, None) for file in model_files(subject.backbone.language_model)]
    apart, spans = packed_logits(subject, subject.examples)
    batch = collate_packed([subject.examples])

    assert subject.backbone.is_causal is is_causal
    assert (ROWS in subject.backbone.embed(batch)[1]) is is_causal
    assert [getattr(file, ATTENTION, None) for file in model_files(subject.backbone.language_model)] == before
    monkeypatch.setattr(segments, "MOST_SCORES", 0.0)
    masked, _ = packed_logits(subject, subject.examples)
    for _, start, count in spans:
        np.testing.assert_allclose(apart[start : start + count], masked[start : start + count], atol=1e-4)


def test_a_row_of_one_example_is_left_as_it_is(checkpoint: Callable[[str], Path]) -> None:
    """Its inputs are those of the embedding."""
    trainable = make_trainable(checkpoint("qwen3_vl"))
    batch = collate(trainable.examples[:1])

    assert trainable.backbone.embed(batch)[1].keys() == trainable.backbone.embed_rows(batch)[1].keys()
