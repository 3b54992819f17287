"""The tower of the Qwen-VL lineage: few traces, kept places, and an eager way beyond its budget."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from tests.models.backbone.test_patch_bins import MERGE
from tests.training import make_trainable
from vlora import (
    collate,
    make_train_step,
)
from vlora.features.cache import FeatureCache
from vlora.models.backbone import grid_tower
from vlora.models.backbone.grid_tower import KEPT_SIZES, GridTower
from vlora.models.backbone.patch_bins import (
    count_patches,
    plan_passes,
)


def test_tower_traces_are_bounded(checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its budget of image sizes the tower runs eagerly, with the same gradients."""
    trainable = make_trainable(checkpoint("qwen3_vl"), model__train_vision=True)
    batch = collate(trainable.examples)
    outputs = []
    for budget in (grid_tower.TOWER_TRACES, 0):
        monkeypatch.setattr(grid_tower, "TOWER_TRACES", budget)
        tower = trainable.backbone._grids()
        tower._traces.clear()
        state, output = make_train_step(trainable.backbone, trainable.optimizer)(trainable.state, batch, 1e-2)
        mx.eval(state, output)
        outputs.append((len(tower._traces), float(output.grad_norm), float(output.nll_sum)))

    assert outputs[0][0] > 0
    assert outputs[1][0] == 0
    assert outputs[0][1:] == pytest.approx(outputs[1][1:], rel=1e-4)


def test_batches_of_any_sizes_share_traces(checkpoint: Callable[[str], Any]) -> None:
    """The order of sizes in a batch is no new trace."""
    subject = make_trainable(checkpoint("qwen3_vl"))
    tower = GridTower(subject.backbone.module, subject.backbone.language_prefix, frozenset())
    width = subject.backbone.module.vision_tower.patch_embed.proj.weight[0].size
    sizes = [(1, 8, 12), (1, 10, 12), (1, 8, 10)]
    for own in itertools.permutations(sizes):
        images = [(grid, lambda grid=grid: np.zeros((count_patches(grid), width), np.float32)) for grid in own]
        tower._run(tower._lay_out_passes(images, range(3)), images)

    assert len(tower._traces) == 1


def test_places_of_sizes_are_kept(checkpoint: Callable[[str], Any]) -> None:
    """Of few passes: those of the same sizes in the same order share their arrays."""
    subject = make_trainable(checkpoint("qwen3_vl"))
    tower = GridTower(subject.backbone.module, subject.backbone.language_prefix, frozenset())

    def lay_out_one(*grids: tuple[int, int, int]) -> Any:
        (found,) = plan_passes(grids, MERGE**2)
        return tower._lay_out_sizes(found, [grids[member] for member in found.members])

    first = lay_out_one((1, 4, 6), (1, 8, 6))
    assert lay_out_one((1, 4, 6), (1, 8, 6)) is first
    assert lay_out_one((1, 8, 6), (1, 4, 6)) is first
    assert lay_out_one((1, 6, 4), (1, 8, 6)) is not first
    for rows in range(2, 2 * KEPT_SIZES, 2):
        lay_out_one((1, rows, 2))
    for rows in range(2, 2 * KEPT_SIZES, 2):
        lay_out_one((1, rows, 4))
    assert len(tower._sizes) <= KEPT_SIZES


def test_an_image_of_several_rows_is_embedded_once(checkpoint: Callable[[str], Any]) -> None:
    """As the two answers of a pair show it: the tower runs once, and the inputs are those of a tower without memory."""
    subject = make_trainable(checkpoint("qwen3_vl"))
    rows = [subject.examples[0], subject.examples[1], subject.examples[0]]
    batch = collate(rows)
    expected = subject.backbone.embed(batch)[0]
    subject.backbone.keep_features(cache := FeatureCache(10**9))

    laid = subject.backbone.prepare_batch(batch)
    found = subject.backbone.embed(laid)[0]

    assert sum(len(own.members) for own in laid.ahead.passes) == 3
    assert cache.counts.n_computed == 3
    for name, value in tree_flatten(expected):
        np.testing.assert_allclose(dict(tree_flatten(found))[name], value, atol=1e-5, err_msg=name)
