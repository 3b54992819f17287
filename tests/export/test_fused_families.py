"""The fused folder of every family, opened by mlx-vlm, has the trained logits."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import vlora
from tests.export.adapters import open_backbone, write_base
from tests.families import FAMILIES, examples
from tests.training import randomize
from vlora import Example, collate, init_state, make_optimizer, models
from vlora.errors import ModelError
from vlora.export.fuse import fuse
from vlora.output.base_identity import KEY
from vlora.recipe.schema import LoraSection, OptimSection
from vlora.train.state import bound_params

QUICK = ("qwen2_vl", "falcon_ocr")
TOLERANCE = 1e-5
LOOSE = {"gemma4_unified": 5e-5, "kimi_k3": 5e-5, "prism_hadamard_qwen35": 5e-5, "molmo_point": 2e-2}
"""Families that amplify rounding: adding the update to the weights in memory moves their logits by as much.

mlx-vlm reads Molmo-Point's float32 weights as float16 (molmo_point/molmo_point.py:967): a fused folder's are rounded,
and an adapter beside them is not.
"""
WITH_TOWERS = LOOSE | {
    "qwen3_5": 2e-4,
    "qwen3_5_moe": 5e-5,
    "prism_hadamard_qwen35": 3e-4,
    "gemma4_unified": 2e-4,
}
"""The same with adapters of towers: noise of 1e-6 in the factors alone moves these families' logits by as much."""
PARTS = ("attention", "vision", "connector")
WITHOUT_SOME = {"qwen4_exp": ("attention", "mlp", "experts"), "kimi_k3": ("attention", "mlp")}
"""What of a language model gets adapters where not all of it can: experts beside other parts, or any experts."""


def logits(backbone: models.MlxVlmBackbone, rows: list[Example], params: Any = None) -> "np.ndarray[Any, Any]":
    """Compute the logits of rows with a model's parameters, or others."""
    batch = collate(rows)
    with bound_params(backbone.module, params) if params else nullcontext(), backbone.overrides():
        return np.array(backbone.all_logits(batch.tokens, *backbone.embed(batch)).astype(mx.float32))


def add_adapter(backbone: models.MlxVlmBackbone, parts: tuple[str, ...]) -> dict[str, Any]:
    """Add an adapter of all layers of a model's parts; those that it has not are left out."""
    try:
        return models.add_lora(backbone, LoraSection(rank=4, alpha=8.0, targets=parts), seed=0, quantized={})
    except ModelError as error:
        lacking = [part for part in parts if f"of the group {part!r}" in str(error)]
        if not lacking:
            raise
        return add_adapter(backbone, tuple(part for part in parts if part not in lacking))


def fuse_random(
    name: str, backbone: models.MlxVlmBackbone, folder: Path, parts: tuple[str, ...] = ("language",), seed: int = 0
) -> tuple[Path, dict[str, mx.array]]:
    """Fuse an adapter of all layers of a model's parts, drawn by a seed: the fused folder, and what was trained."""
    config = add_adapter(backbone, WITHOUT_SOME.get(name, parts) if parts == ("language",) else parts)
    params = init_state(backbone, make_optimizer(OptimSection())).params
    params = {key: randomize(f"{seed * 'x'}{key}", value) for key, value in params.items()}
    assert backbone.base is not None
    config |= {KEY: backbone.base.dump(), "base_model": str(folder / "base")}
    vlora.save_adapter(folder / "run" / "adapters.safetensors", params, config)
    with FAMILIES[name].while_building():
        return fuse(str(folder / "run")).folder, params


def check(name: str, folder: Path, parts: tuple[str, ...] = ("language",)) -> float:
    """Fuse an adapter, and compare; how far the adapter moves the logits."""
    backbone, rows = write_base(name, folder / "base"), examples(FAMILIES[name])
    fused, params = fuse_random(name, backbone, folder, parts)
    before, expected = logits(backbone, rows), logits(backbone, rows, params)
    found = logits(open_backbone(name, fused), rows)
    largest = max(1.0, float(np.abs(expected).max()))
    assert (
        float(np.abs(found - expected).max())
        < (WITH_TOWERS if parts == PARTS else LOOSE).get(name, TOLERANCE) * largest
    )
    base, written = (
        {key: value.shape for key, value in tree_flatten(open_backbone(name, path).module.parameters())}
        for path in (folder / "base", fused)
    )
    assert base == written
    return float(np.abs(expected - before).max())


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.families) for name in FAMILIES],
)
def test_fused(name: str, tmp_path: Path) -> None:
    """A folder in mlx-vlm's layout, whose adapter moves the logits by a tenth at least."""
    assert check(name, tmp_path) > 0.1


@pytest.mark.parametrize(
    "name",
    [
        "qwen2_vl",
        *(pytest.param(name, marks=pytest.mark.families) for name in FAMILIES if name != "qwen2_vl"),
    ],
)
def test_fused_with_its_tower_and_connector(name: str, tmp_path: Path) -> None:
    """Adapters of attention, tower and connector in one folder; mlx-vlm has none of experts beside a tower."""
    assert check(name, tmp_path, PARTS) > 0.1
