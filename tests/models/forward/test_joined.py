"""Padded rows joined to one: every token's place once, and the losses, gradients and logits of rows apart."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training import Trainable, make_trainable
from vlora import collate, make_optimizer, make_train_step
from vlora.models.forward import joined
from vlora.models.forward.attention_masks import TILE
from vlora.models.forward.joined import (
    FARTHEST_IN_FLOAT32,
    JOINED,
    SOURCES,
    can_join,
    choose_joined,
    join_inputs,
    most_places,
    part_gradients,
    plan_joined,
)
from vlora.models.forward.lm_inputs import LAYOUTS, SEGMENTS, PadSpec
from vlora.models.forward.segments import PLACES, ROWS
from vlora.ops.buckets import SMALLEST_BUCKET, bucket_length, bucket_targets
from vlora.recipe.schema import OptimSection
from vlora.types import Batch

CheckpointFactory = Callable[[str], Path]
WHOLE: dict[str, Any] = {"model__full_finetune": True, "model__train_vision": True}
LENGTH = 64


@given(st.lists(st.integers(1, LENGTH), min_size=1, max_size=6), st.integers(0, 3))
def test_every_token_has_a_place_in_both(counts: list[int], n_fillers: int) -> None:
    """There and back; the rows of attention hold one example each, and padding nothing."""
    n_rows = len(counts) + n_fillers
    chosen = choose_joined(counts, n_rows)
    if chosen is None:
        return
    plan = plan_joined([(row, 0, count) for row, count in enumerate(counts)], (n_rows, LENGTH), chosen[1])
    there, sources, rows, places, segments = (
        np.array(plan[name]) for name in (JOINED, SOURCES, ROWS, PLACES, SEGMENTS)
    )
    n_tokens = sum(counts)
    real = np.arange(LENGTH)[None] < np.array([*counts, *[0] * n_fillers])[:, None]

    assert len(sources) <= joined.MOST_PLACES * n_rows * LENGTH
    assert ((there >= 0) == real.reshape(-1)).all()
    assert (sources[there[there >= 0]] == np.flatnonzero(there >= 0)).all()
    assert (sources[n_tokens:] == sources[n_tokens - 1]).all()
    assert (rows.reshape(-1)[places[0, :n_tokens]] == np.arange(n_tokens)).all()
    assert (places[0, n_tokens:] == -1).all()
    assert np.bincount(segments[0], minlength=len(counts) + 1)[1:].tolist() == counts


def test_rows_that_are_padded_further() -> None:
    """Each has a place for its last token, which rows of no more than their length do not have."""
    chosen = choose_joined([97, 32], 2)
    assert chosen is not None
    assert chosen[0] == 96
    plan = plan_joined([(0, 0, 97), (1, 0, 32)], (2, 128), chosen[1])

    assert (np.array(plan[JOINED]) >= 0).sum() == 97 + 32


def test_inputs_and_gradients_move_alike() -> None:
    """Arrays, lists of them, truth values, and positions, whose rows are their last axis but one."""
    plan = plan_joined([(0, 0, 30), (1, 0, 7), (2, 0, 3)], (4, LENGTH), LENGTH)
    shape = (4, LENGTH)
    numbers = mx.arange(4 * LENGTH).reshape(shape)
    embeds = mx.broadcast_to(numbers[..., None], (*shape, 2)).astype(mx.float32)
    fields = {
        "inputs_embeds": embeds,
        "deepstack_visual_embeds": [embeds, -embeds],
        "position_ids": numbers[None] + 1,
        "visual_pos_masks": numbers % 2 == 0,
    }
    moved = join_inputs(fields, plan, LAYOUTS)
    back = part_gradients(moved, plan, LAYOUTS, shape)
    real = np.array(plan[JOINED]).reshape(shape) >= 0

    assert moved["position_ids"].shape == (1, 1, plan[SOURCES].size)
    assert (np.array(moved["position_ids"])[0, 0] == np.array(plan[SOURCES]) + 1).all()
    assert moved["visual_pos_masks"].dtype == mx.bool_
    assert (np.array(moved["visual_pos_masks"])[0] == (np.array(plan[SOURCES]) % 2 == 0)).all()
    assert (np.array(back["inputs_embeds"]) == np.where(real[..., None], np.array(embeds), 0)).all()
    assert (np.array(back["deepstack_visual_embeds"][1]) == -np.where(real[..., None], np.array(embeds), 0)).all()


def test_inputs_of_tokens_are_joined() -> None:
    """Not inputs of two axes of tokens, nor of none, nor positions that count from the row's beginning."""
    fields = {name: mx.zeros((1,)) for name in ("inputs_embeds", "position_ids")}
    counting = {**LAYOUTS, "position_ids": PadSpec(batch_axis=-2, token_axes=(-1,), counts_places=True)}

    assert can_join(fields, LAYOUTS)
    assert can_join({"inputs_embeds": fields["inputs_embeds"]}, LAYOUTS)
    assert not can_join(fields, counting)
    assert not can_join({**fields, "mask": mx.zeros((1,))}, LAYOUTS)
    assert not can_join({**fields, "unknown": mx.zeros((1,))}, LAYOUTS)


def test_positions_that_a_model_counts_have_an_end() -> None:
    """Where the model treats them otherwise; in float32 also where rounding would show."""
    embeds = mx.zeros((1,))

    assert most_places({"inputs_embeds": embeds}, sys.maxsize) == FARTHEST_IN_FLOAT32
    assert most_places({"inputs_embeds": embeds.astype(mx.bfloat16)}, sys.maxsize) == sys.maxsize
    assert most_places({"inputs_embeds": embeds.astype(mx.bfloat16)}, 4096) == 4096
    assert most_places({"inputs_embeds": embeds, "position_ids": embeds}, 4096) == sys.maxsize


def gradients(trainable: Trainable, batch: Batch) -> tuple[float, dict[str, np.ndarray]]:
    """Compute the mean loss and its gradient through a compiled step."""
    step = make_train_step(trainable.backbone, make_optimizer(OptimSection(name="sgd", betas=(0.0, 0.0))))
    state, output = step(trainable.state, batch, 1.0)
    before = trainable.state.params
    moved = {name: np.array(before[name] - value) for name, value in state.params.items()}
    return float(output.nll_sum / output.n_supervised), moved


@pytest.mark.parametrize(
    "overrides", [{}, WHOLE, {"train__grad_checkpoint": True}], ids=["lora", "whole", "recomputed"]
)
@pytest.mark.parametrize("n_fillers", [0, 2])
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "llava", "idefics3"])
def test_joined_rows_have_the_gradients_of_rows_apart(
    family: str,
    n_fillers: int,
    overrides: dict[str, Any],
    checkpoint: CheckpointFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Layers run at fewer places, with the tower and the embeddings trained or not."""
    trainable = make_trainable(checkpoint(family), **overrides)
    backbone, batch = trainable.backbone, collate(trainable.examples, len(trainable.examples) + n_fillers)
    monkeypatch.setattr(joined, "MOST_PLACES", 0.0)
    loss, expected = gradients(trainable, batch)
    assert JOINED not in backbone.embed(batch)[1]
    assert backbone.count_places(batch) == batch.tokens.size
    monkeypatch.setattr(joined, "MOST_PLACES", 0.99)
    joined_loss, found = gradients(trainable, batch)
    assert backbone.count_places(batch) == backbone.embed(batch)[0]["inputs_embeds"].shape[1] < batch.tokens.size
    largest = max(np.abs(value).max() for value in expected.values())

    assert joined_loss == pytest.approx(loss, rel=1e-6)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-4 * np.abs(value).max() + 1e-6 * largest, err_msg=name)


@pytest.mark.parametrize("family", ["glm4v", "qwen3_vl"])
def test_rows_without_images_are_joined(
    family: str, checkpoint: CheckpointFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where only rows with images come with positions, as those of the GLM-V lineage do."""
    trainable = make_trainable(checkpoint(family))
    texts = [example for example in trainable.examples if not example.inputs]
    for examples in (texts, trainable.examples):
        batch = collate(examples, len(examples) + 3)
        with monkeypatch.context() as patch:
            patch.setattr(joined, "MOST_PLACES", 0.0)
            loss, expected = gradients(trainable, batch)
        joined_loss, found = gradients(trainable, batch)
        largest = max(np.abs(value).max() for value in expected.values())

        assert JOINED in trainable.backbone.embed(batch)[1]
        assert trainable.backbone.count_places(batch) < batch.tokens.size
        assert joined_loss == pytest.approx(loss, rel=1e-6)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=1e-4 * largest, err_msg=name)


def test_a_card_has_whole_tiles(checkpoint: CheckpointFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the padding is not computed; of other models, and of like rows, as little padding as before."""
    joining, other = (make_trainable(checkpoint(family)).backbone for family in ("qwen3_vl", "gemma3"))
    unequal = [60 + 20 * row for row in range(16)]
    assert joining.length_multiple(unequal, 16) == 384
    assert joining.length_multiple([380] * 16, 16) == other.length_multiple(unequal, 16) == SMALLEST_BUCKET

    monkeypatch.setattr(joined, "on_cuda", lambda: True)
    assert joining.length_multiple([60 + 2 * row for row in range(16)], 16) == TILE
    chosen = choose_joined([60 + 2 * row for row in range(16)], 16)
    assert chosen == (TILE, 10 * TILE)
    plan = plan_joined([(row, 0, 60 + 2 * row) for row in range(16)], (16, 96), chosen[1])
    assert plan[ROWS].shape == (16, TILE)


@given(st.lists(st.integers(2, 700), min_size=1, max_size=16), st.integers(0, 3), st.booleans())
def test_nothing_is_computed_more_than_rows_apart(counts: list[int], n_fillers: int, is_card: bool) -> None:
    """The collated length is the one that was chosen, and has room for every row."""
    n_rows = len(counts) + n_fillers
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joined, "on_cuda", lambda: is_card)
        chosen = choose_joined(counts, n_rows)
    if chosen is None:
        return
    longest = max(1, max(counts) - 1)

    assert chosen[0] == bucket_length(longest, chosen[0])
    assert sum(min(count, chosen[0]) for count in counts) <= chosen[1] < n_rows * bucket_length(longest)


@pytest.mark.parametrize("is_card", [False, True])
@pytest.mark.parametrize("n_rows", [2, 3, 4, 7, 8, 16, 32])
def test_a_run_traces_few_shapes(n_rows: int, is_card: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,500 batches of lengths that are spread evenly, with answers of all lengths."""
    monkeypatch.setattr(joined, "on_cuda", lambda: is_card)
    rng = np.random.default_rng(0)
    shapes = set()
    for _ in range(2500):
        counts = rng.integers(30, 2000, n_rows).tolist()
        length, n_joined = choose_joined(counts, n_rows) or (bucket_length(max(counts) - 1), 0)
        n_targets = int(sum(counts) * rng.uniform(0.05, 0.3))
        shapes.add((length, n_joined, bucket_targets(n_targets, n_rows * length)))

    assert len(shapes) <= 200


def test_photos_with_short_answers_have_few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty batches whose longest rows differ by a tenth: all are joined, and none has a shape of its own."""
    monkeypatch.setattr(joined, "on_cuda", lambda: True)
    rng = np.random.default_rng(0)
    chosen = [choose_joined((270 + 5 * rng.integers(12, 41, 16)).tolist(), 16) for _ in range(60)]

    assert None not in chosen
    assert len(set(chosen)) <= 3


@pytest.mark.parametrize("family", ["paligemma", "gemma3"])
def test_rows_of_other_models_stay_apart(family: str, checkpoint: CheckpointFactory) -> None:
    """One sees its whole prompt, and one has windows."""
    trainable = make_trainable(checkpoint(family))
    batch = collate(trainable.examples, 2 * len(trainable.examples))

    assert not trainable.backbone.joins
    assert JOINED not in trainable.backbone.embed(batch)[1]
    assert trainable.backbone.count_places(batch) == batch.tokens.size
