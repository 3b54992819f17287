"""Models loaded and prepared: parts without a constructor are completed, and kernels are kept where they should be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from tests.families import FAMILIES, build
from tests.runs import make_recipe
from vlora import models
from vlora.build import find_model
from vlora.models.load import loading
from vlora.recipe.schema import ModelSection


def test_parts_without_a_constructor_are_completed() -> None:
    """MiMo-V2's hearing forgets to say that it is a module."""
    module = build(FAMILIES["mimo_v2"])
    with pytest.raises(AttributeError):
        module.freeze()
    loading.complete_modules(module)
    module.freeze()
    assert not tree_flatten(module.trainable_parameters())


@pytest.mark.parametrize("loads", [loading.load_backbone, loading.abstract_backbone])
def test_kernels_are_kept_where_only_the_user_writes(
    loads: Callable[..., Any],
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However a model is loaded, MLX is told its folder of kernels before anything is computed."""
    told: list[str] = []
    load = loading._load_module

    def open_it(*arguments: Any, **options: Any) -> Any:
        told.append("loaded")
        return load(*arguments, **options)

    monkeypatch.setattr(loading, "keep", lambda: told.append("told"))
    monkeypatch.setattr(loading, "_load_module", open_it)
    recipe = make_recipe(checkpoint("qwen3_vl"), tmp_path / "rows.jsonl", tmp_path / "o")
    loads(find_model(recipe), recipe.model)

    assert told == ["told", "loaded"]


def test_a_lazy_model_reads_little(checkpoint: Callable[[str], Path]) -> None:
    """Of its layers one at most; what reads a layer's weights can give them back unread."""
    files, section = find_files(checkpoint("qwen3_vl"))
    whole, _ = loading.load_backbone(files, section)
    total = sum(value.nbytes for _, value in tree_flatten(whole.module.parameters()))
    del whole
    mx.clear_cache()
    before = mx.get_active_memory()
    lazy, _ = loading.load_backbone(files, section, is_lazy=True)
    read = mx.get_active_memory() - before
    layer = lazy.layers[0].mlp
    loading.unread_weights(files, section)("language_model.model.layers.0.mlp", layer)

    assert read < 0.5 * total
    assert mx.array_equal(layer.up_proj.weight, loading.load_backbone(files, section)[0].layers[0].mlp.up_proj.weight)


def find_files(folder: Path) -> tuple[Any, ModelSection]:
    """Find a model."""
    section = ModelSection(path=str(folder))
    return models.find_model(section), section
