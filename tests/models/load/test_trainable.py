"""Adapters attached as a recipe names them, and loaded from their files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import numpy as np
import pytest

import vlora
from tests.training import Trainable, make_trainable
from vlora.errors import CheckpointError, ModelError
from vlora.models.load.trainable import refuse_dropout_in_tower, scale_of
from vlora.recipe.schema import LoraSection


def features(made: Trainable) -> "np.ndarray[Any, Any]":
    """Embed the first row, which has an image."""
    fields, _ = made.backbone.embed(vlora.collate([made.examples[0]]))
    return np.array(fields["inputs_embeds"])


def test_an_adapter_of_a_model_that_was_asked_before(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Features are those of the adapter that was loaded last: of the tower, of another scale, or of none of it."""
    folder = checkpoint("qwen3_vl")
    made, other = make_trainable(folder, lora__targets=["q_proj"]), make_trainable(folder, lora__targets=["vision"])
    paths = [tmp_path / name / "adapters.safetensors" for name in ("language", "tower", "twice")]
    twice = {**other.config["lora_parameters"], "scale": 2 * other.config["lora_parameters"]["scale"]}
    vlora.save_adapter(paths[0], made.state.params, made.config)
    vlora.save_adapter(paths[1], other.state.params, other.config)
    vlora.save_adapter(paths[2], other.state.params, {**other.config, "lora_parameters": twice})
    expected = [features(make_trainable(folder, model__adapter_path=str(path))) for path in paths]
    assert not np.allclose(expected[0], expected[1], atol=1e-2)
    assert not np.allclose(expected[1], expected[2], atol=1e-2)

    for number in (0, 1, 2, 0, 1):
        vlora.load_adapter(made.backbone, paths[number])
        assert np.allclose(features(made), expected[number], atol=1e-5), number
        assert bool(made.backbone.embed_param_names()) == (number > 0)


def test_an_adapter_that_does_not_fit(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """The model keeps the adapter that it has, and the error names the file."""
    made = make_trainable(checkpoint("qwen3_vl"), lora__targets=["q_proj"])
    before = {name: value.shape for name, value in vlora.init_state(made.backbone, made.optimizer).params.items()}
    path = tmp_path / "adapters.safetensors"
    vlora.save_adapter(path, {name: value[:-1] for name, value in made.state.params.items()}, made.config)
    scheme = {"bits": 4, "group_size": 64, "mode": "affine"}
    elsewhere = {**made.config, "base_quantization": {"a.layer": scheme}}
    quantized = {**made.config, "base_quantization": {made.config["lora_parameters"]["keys"][0]: scheme}}
    del quantized["base"]

    with pytest.raises(CheckpointError, match=r"adapters\.safetensors: does not fit the model at"):
        vlora.load_adapter(made.backbone, path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(quantized), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"quantized to 4 bits; set model\.quantize_bits = 4"):
        vlora.load_adapter(made.backbone, path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(elsewhere), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"base_quantization has a\.layer, which the model has not; was it"):
        vlora.load_adapter(made.backbone, path)
    after = vlora.init_state(made.backbone, made.optimizer).params
    assert {name: value.shape for name, value in after.items()} == before


def test_a_table_of_an_adapter_before_is_not_kept_in_silence(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """An adapter without tables was trained beside the base's; one that brings its own replaces what is there."""
    plain, other = (make_trainable(checkpoint("qwen3_vl"), lora__train_embeddings=tables) for tables in (False, True))
    name = next(name for name in other.state.params if name.endswith("embed_tokens.weight"))
    changed = other.state.params[name] + 1
    for folder, params, config in (
        ("plain", plain.state.params, plain.config),
        ("one", other.state.params, other.config),
        ("two", {**other.state.params, name: changed}, other.config),
    ):
        (tmp_path / folder).mkdir()
        vlora.save_adapter(tmp_path / folder / "adapters.safetensors", params, config)

    for folder in ("plain", "two", "one", "two"):
        vlora.load_adapter(plain.backbone, tmp_path / folder)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"plain: brings no .*embed_tokens, and the model .*; load the model"):
            vlora.load_adapter(plain.backbone, tmp_path / "plain")
    after = vlora.init_state(plain.backbone, plain.optimizer).params
    assert mx.array_equal(after[name], changed)
    assert any(name.endswith(".lora_a") for name in after), "the adapter before is not there any more"


def test_what_a_recipe_says_of_a_saved_adapter(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """It may repeat the adapter's rank, scale and layers, and not change them; dropout is the recipe's."""
    made = make_trainable(checkpoint("qwen3_vl"), lora__rank=4, lora__alpha=12.0, lora__targets=["q_proj"])
    path = tmp_path / "adapters.safetensors"
    vlora.save_adapter(path, made.state.params, made.config)
    same = LoraSection(rank=4, alpha=12.0, targets=("q_proj",), dropout=0.25)

    assert vlora.load_adapter(made.backbone, path, same)["lora_parameters"]["dropout"] == 0.25
    changes = {
        "rank": attrs.evolve(same, rank=5),
        "alpha": attrs.evolve(same, alpha=3.0),
        "targets": attrs.evolve(same, targets=("k_proj",)),
        "last_layers": attrs.evolve(same, targets=(), last_layers=1),
    }
    for key, changed in changes.items():
        with pytest.raises(CheckpointError, match=rf"^lora\.{key}: "):
            vlora.load_adapter(made.backbone, path, changed)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"^model\.adapter_path: found no .*adapters\.safetensors"):
        vlora.load_adapter(made.backbone, path)


def test_scales_of_ranks() -> None:
    """Alpha by the rank, or with rsLoRA by its root."""
    assert scale_of(LoraSection(rank=16, alpha=32.0)) == 2.0
    assert scale_of(LoraSection(rank=16, alpha=32.0, rslora=True)) == 8.0


def test_inputs_of_a_tower_are_not_dropped(checkpoint: Callable[[str], Path]) -> None:
    """Dropout there would be ignored, so that it is refused."""
    backbone = make_trainable(checkpoint("qwen3_vl"), lora__targets=["q_proj"]).backbone
    outside = next(name for name, _ in backbone.module.named_modules() if name.startswith("vision_tower."))

    refuse_dropout_in_tower(backbone, [outside], LoraSection())
    refuse_dropout_in_tower(backbone, ["language_model.model.layers.0.self_attn.q_proj"], LoraSection(dropout=0.1))
    with pytest.raises(ModelError, match=rf"^lora\.dropout: found 0\.1 with an adapter on {outside}"):
        refuse_dropout_in_tower(backbone, [outside], LoraSection(dropout=0.1))
