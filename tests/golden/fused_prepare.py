"""First stage of opening fused folders with transformers, in vlora's environment: writes the folders and their logits.

python -m tests.golden.prepare --work /tmp/golden FAMILY...
python -m tests.golden.fused_prepare --work /tmp/golden FAMILY...
.venv-reference/bin/python -m tests.golden.fused_reference --work /tmp/golden FAMILY...
"""

import vlora  # noqa: F401 - before anything imports mlx: it binds a fast BLAS

# isort: split

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from vlora import Example, adapter_state_dict, collate, init_state, make_optimizer, models, save_adapter
from vlora.build import load_model
from vlora.errors import ModelError, VloraError
from vlora.export.fuse import fuse
from vlora.recipe.schema import DataSection, LoraSection, ModelSection, OptimSection, Recipe
from vlora.train.state import bound_params

from .cases import CASES, Array, random_numbers
from .mlx_side import encode_rows
from .stages import make_parser

MOVED = 0.1
"""Least change of the logits that an adapter makes."""

ADAPTERS: dict[str, Any] = {
    "lora": {"rank": 4, "alpha": 8.0, "targets": ("language",)},
    "tower": {"rank": 4, "alpha": 8.0, "rslora": True, "targets": ("vision",)},
    "tables": {"rank": 4, "alpha": 8.0, "method": "dora", "train_embeddings": True, "train_head": True},
}


def logits(backbone: models.MlxVlmBackbone, params: Any, rows: Sequence[Example]) -> list[Array]:
    """Compute the logits of rows, each alone: f[T, V]."""
    found = []
    for row in rows:
        batch = collate([row])
        with bound_params(backbone.module, params), backbone.overrides():
            values = backbone.all_logits(batch.tokens, *backbone.embed(batch)).astype(mx.float32)
        found.append(np.array(values)[0, : len(row.tokens)])
    return found


def prepare(family: str, name: str, work: Path) -> str:
    """Write a fused folder of a family, and its logits.

    Returns:
        How far the adapter moves the logits, or why there is none.
    """
    model, folder = work / "model", work / "fused" / name
    shutil.rmtree(folder, ignore_errors=True)
    section = LoraSection(**ADAPTERS[name])
    recipe = Recipe(model=ModelSection(path=str(model)), data=DataSection(path="rows"), lora=section)
    try:
        backbone, config = load_model(recipe, models.find_model(recipe.model))
    except ModelError as error:
        return f"refused: {error}"
    rows = encode_rows(family, model).examples
    params = init_state(backbone, make_optimizer(OptimSection(name="sgd"))).params
    base, spread, change = logits(backbone, params, rows), 0.02, 0.0
    while change < MOVED:
        moved = {
            key: value
            + mx.array(random_numbers(key).standard_normal(value.shape, dtype=np.float32) * np.float32(spread))
            for key, value in params.items()
        }
        found = logits(backbone, moved, rows)
        change = max(float(np.abs(one - other).max()) for one, other in zip(found, base, strict=True))
        spread *= 2
    save_adapter(folder / "adapters.safetensors", adapter_state_dict(backbone.module, moved), config)
    try:
        fused = fuse(str(folder))
    except VloraError as error:
        return f"refused: {error}"
    arrays = {str(number): mx.array(value) for number, value in enumerate(found)}
    mx.save_safetensors(str(folder / "logits.safetensors"), arrays)
    return f"moved by {change:.3g}, layout {fused.layout} {fused.why_mlx or ''}"


def main() -> None:
    """Prepare the named families, or all."""
    options = make_parser("fused_prepare", __doc__, "what tests.golden.prepare wrote").parse_args()
    for family in options.families or CASES:
        work = options.work / family
        for name in ADAPTERS:
            try:
                print(f"{family} {name}: {prepare(family, name, work)}", flush=True)
            except AttributeError as error:
                # Towers that look at the weights of a layer that has an adapter.
                print(f"{family} {name}: cannot be trained ({error})", flush=True)


if __name__ == "__main__":
    main()
