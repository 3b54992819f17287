"""Small trained adapters of a tiny published checkpoint, for tests of what is made of them."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_vlm import utils as mlx_vlm_utils

from tests.families import FAMILIES, build
from tests.golden.mlx_side import write_folder
from vlora import init_state, make_optimizer, models
from vlora.adapters.attached import adapter_state_dict
from vlora.build import load_model
from vlora.models.load.loading import prepare, restore
from vlora.output.checkpoint import save_adapter
from vlora.recipe.schema import DataSection, LoraSection, ModelSection, OptimSection, Recipe


def write_adapter(
    folder: Path, family: str = "qwen3_vl", *, model: Path | None = None, train_vision: bool = False, **lora: Any
) -> Path:
    """Write an adapter with random factors, and its base beside it.

    Args:
        folder: Where; the base becomes `folder / "model"`.
        family: Of the base.
        model: A base that is there already.
        train_vision: Whether the tower and its projector are trained whole.
        lora: Keys of the recipe's section.

    Returns:
        The adapter's folder.
    """
    model = write_folder(family, folder / "model") if model is None else model
    section = ModelSection(path=str(model), train_vision=train_vision)
    recipe = Recipe(model=section, data=DataSection(path="rows"), lora=LoraSection(**lora))
    backbone, config = load_model(recipe, models.find_model(recipe.model))
    state = init_state(backbone, make_optimizer(OptimSection(name="sgd")))
    generator = np.random.default_rng(0)
    params = {
        name: value + mx.array(generator.standard_normal(value.shape, dtype=np.float32) * np.float32(0.1))
        for name, value in state.params.items()
    }
    own = folder / "own"
    own.mkdir(parents=True)
    save_adapter(own / "adapters.safetensors", adapter_state_dict(backbone.module, params), config)
    return own


def write_base(name: str, folder: Path, dtype: mx.Dtype = mx.float32) -> models.MlxVlmBackbone:
    """Write a family's tiny model as mlx-vlm's conversion does, and open it."""
    family = FAMILIES[name]
    made = build(family)
    made.set_dtype(dtype)
    mlx_vlm_utils.save_weights(folder, made)
    (folder / "config.json").write_text(json.dumps(dict(family.config)), encoding="utf-8")
    return open_backbone(name, folder)


def open_backbone(name: str, folder: Path) -> models.MlxVlmBackbone:
    """Open a folder through mlx-vlm, ready to be trained."""
    with FAMILIES[name].while_building():
        section = ModelSection(path=str(folder))
        files = models.find_model(section)
        module = mlx_vlm_utils.load_model(folder)
        restore(module, files.family, files.config)
        backbone, _ = prepare(module, files.family, section)
        backbone.base = models.load_backbone(files, section)[0].base
    return backbone
