"""What an adapter says of its base, and what it makes of parts of its parameters."""

import json
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

import vlora
from tests.training import make_trainable
from vlora.errors import CheckpointError
from vlora.export.trained import open_trained
from vlora.run.origin import find_adapter_recipe

LAYER = "language_model.model.layers.0.mlp.down_proj"


def save(folder: Path, run: Path, **overrides: object) -> None:
    """Save an adapter of a tiny model."""
    made = make_trainable(folder, **overrides)
    vlora.save_adapter(run / "adapters.safetensors", made.state.params, made.config)


def test_recipes(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """The run's recipe beside an adapter holds; without one, and without a readable one, the adapter's own words do."""
    base = checkpoint("qwen3_vl")
    save(base, tmp_path, model__quantize_bits=4, model__quantize_group_size=32)
    plain = find_adapter_recipe(str(tmp_path))
    assert (plain.model.path, plain.model.quantize_bits, plain.model.quantize_group_size) == (str(base), 4, 32)
    assert find_adapter_recipe(str(tmp_path), "some/other").model.path == "some/other"
    (tmp_path / "recipe.toml").write_text('[data]\npath = "x"\nsystem = "Be brief."\n[lora]\nrank = 64\n')
    assert find_adapter_recipe(str(tmp_path)).data.system == "Be brief."
    (tmp_path / "recipe.toml").write_text("[data\n")
    assert find_adapter_recipe(str(tmp_path)).data.system is None
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    del config["base"], config["base_model"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not say on which model it was trained; name that with --base"):
        find_adapter_recipe(str(tmp_path))


def test_parts(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """What was quantized on loading is, before what was learned is added; other parameters are the base's."""
    save(checkpoint("qwen3_vl"), tmp_path, model__quantize_bits=4, model__quantize_group_size=32)
    trained = open_trained(find_adapter_recipe(str(tmp_path)))
    shape = trained.layers[LAYER].lora_a.shape[0], trained.layers[LAYER].lora_b.shape[1]
    weight = mx.random.normal(shape[::-1], key=mx.random.key(1))
    before, after = (each(f"{LAYER}.weight", weight) for each in (trained.before, trained.after))
    assert 0 < float(mx.abs(before - weight).max()) < 0.5
    layer = trained.layers[LAYER]
    assert mx.allclose(after - before, layer.scale * (layer.lora_a @ layer.lora_b).T, atol=1e-5)
    norm = "language_model.model.norm.weight"
    assert trained.changes(f"{LAYER}.weight")
    assert not trained.changes(norm)
    assert trained.after(norm, weight[0]) is not None
    assert mx.array_equal(trained.after(norm, weight[0]), weight[0])
