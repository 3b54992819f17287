"""Fused folders: mlx-vlm opens them with the trained logits, whatever was trained, packed or not."""

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_vlm.utils import load

import vlora
from tests.arrays import load_arrays
from tests.models.load.test_quantized_folders import quantize
from tests.training import Trainable, make_trainable, randomize
from vlora import collate, init_state, models, parse_recipe
from vlora.build import find_model, load_model
from vlora.errors import CheckpointError, RecipeError
from vlora.export.fuse import Fused, fuse
from vlora.recipe.schema import ModelSection
from vlora.system.safetensors_header import read_header
from vlora.train.state import bound_params

Checkpoint = Callable[[str], Path]

PACKED = {"model__quantize_bits": 4, "model__quantize_group_size": 32}


def logits(backbone: models.MlxVlmBackbone, made: Trainable, params: Any = None) -> "np.ndarray[Any, Any]":
    """Compute the logits of a model's rows with its parameters, or others."""
    batch = collate(made.examples)
    with bound_params(backbone.module, params) if params else nullcontext(), backbone.overrides():
        return np.array(backbone.all_logits(batch.tokens, *backbone.embed(batch)).astype(mx.float32))


def reopened(folder: Path, made: Trainable) -> "np.ndarray[Any, Any]":
    """Compute the logits of the same rows with the model of a folder, which mlx-vlm opens."""
    load(str(folder))
    section = ModelSection(path=str(folder))
    return logits(models.load_backbone(models.find_model(section), section)[0], made)


def train(folder: Path, run: Path, **overrides: Any) -> Trainable:
    """Make an adapter that moves the logits, and save it."""
    made = make_trainable(folder, **overrides)
    still = {
        name: mx.zeros_like(value) if name.endswith("lora_b") else value for name, value in made.state.params.items()
    }
    moved = np.abs(logits(made.backbone, made, made.state.params) - logits(made.backbone, made, still)).max()
    assert moved > 0.1
    arrays = vlora.adapter_state_dict(made.backbone.module, made.state.params)
    vlora.save_adapter(run / "adapters.safetensors", arrays, made.config)
    return made


def differ(made: Trainable, fused: Fused) -> float:
    """Say how far a folder's logits are from the trained ones."""
    return float(np.abs(reopened(fused.folder, made) - logits(made.backbone, made, made.state.params)).max())


WAYS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "lora": ("qwen3_vl", {}, "keep"),
    "rslora of experts": ("qwen3_vl_moe", {"lora__rslora": True}, "keep"),
    "dora, tables": (
        "gemma3",
        {"lora__method": "dora", "lora__train_embeddings": True, "lora__train_head": True},
        "none",
    ),
    "pissa beside a trained tower": ("qwen3_vl", {"lora__init": "pissa", "model__train_vision": True}, "keep"),
    "tower adapted": ("llava", {"lora__targets": ["all-linear"]}, "keep"),
    "quantized on loading": ("qwen2_vl", PACKED, "none"),
}


USUAL = ("lora", "dora, tables")
SLOW = pytest.mark.slow


@pytest.mark.parametrize("way", [*USUAL, *(pytest.param(way, marks=SLOW) for way in WAYS if way not in USUAL)])
def test_dense_folders_have_the_trained_logits(way: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """In the base's own names, shapes and types, and with its other files."""
    family, overrides, packing = WAYS[way]
    made = train(checkpoint(family), tmp_path, **overrides)
    fused = fuse(str(tmp_path), quantize=packing)
    assert differ(made, fused) < 1e-5
    assert fused.layout == "published"
    base = checkpoint(family)
    assert {file.name for file in fused.folder.iterdir()} == {file.name for file in base.iterdir()}
    kinds = [read_header(folder / "model.safetensors") for folder in (fused.folder, base)]
    assert {name: (entry.dtype, entry.shape) for name, entry in kinds[0].items()} == {
        name: (entry.dtype, entry.shape) for name, entry in kinds[1].items()
    }


@pytest.mark.parametrize("is_packed", [False, pytest.param(True, marks=SLOW)])
def test_new_tokens(is_packed: bool, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Tables, tokenizer and configuration have them; the tables of a quantized base stay unpacked."""
    base = checkpoint("qwen3_vl")
    base = quantize(base, tmp_path / "base", "4-bit") if is_packed else base
    keys = {"model.path": str(base), "model.add_tokens": ["<loc_1>"], "data.path": "x"}
    recipe = parse_recipe("", {**keys, "output.path": str(tmp_path / "run")})
    backbone, config = load_model(recipe, find_model(recipe))
    made = make_trainable(base)
    state = init_state(backbone, made.optimizer)
    params = {name: randomize(name, value) for name, value in state.params.items()}
    vlora.save_adapter(tmp_path / "run" / "adapters.safetensors", params, config)
    fused = fuse(str(tmp_path / "run"), quantize="none")
    difference = np.abs(reopened(fused.folder, made) - logits(backbone, made, params)).max()
    assert difference < (1e-4 if is_packed else 1e-5)
    assert "<loc_1>" in load(str(fused.folder))[1].tokenizer.get_vocab()
    if is_packed:
        kept = fuse(str(tmp_path / "run"), tmp_path / "kept")
        assert "language_model.model.embed_tokens.scales" not in read_header(kept.folder / "model.safetensors")
        reopened(kept.folder, made)


@pytest.mark.parametrize("mode", ["4-bit", *(pytest.param(mode, marks=SLOW) for mode in ("mxfp4", "uneven"))])
def test_quantized_bases(mode: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Unpacked, the logits are the trained ones; packed again each layer is as it was, and the change is measured."""
    base = quantize(checkpoint("qwen3_vl"), tmp_path / "base", mode)
    made = train(base, tmp_path / "run")
    dense = fuse(str(tmp_path / "run"), quantize="none", out=tmp_path / "dense")
    # mlx-vlm computes with packed tables of mxfp4 in bfloat16.
    assert differ(made, dense) < (0.05 if mode == "mxfp4" else 1e-4)
    assert "quantization" not in json.loads((dense.folder / "config.json").read_text())
    kept = fuse(str(tmp_path / "run"), out=tmp_path / "kept")
    reopened(kept.folder, made)
    (before,), (after,) = (
        [read_header(file) for file in folder.glob("*.safetensors")] for folder in (base, kept.folder)
    )
    assert {name: (entry.dtype, entry.shape) for name, entry in before.items()} == {
        name: (entry.dtype, entry.shape) for name, entry in after.items()
    }
    assert json.loads((kept.folder / "config.json").read_text()) == json.loads((base / "config.json").read_text())
    layers = {name.removesuffix(".lora_a") for name in made.state.params if name.endswith(".lora_a")}
    assert kept.rounding.n_layers == len([layer for layer in layers if f"{layer}.scales" in before])
    # What the folder stands for is what quantizing the dense one gives.
    layer = "language_model.model.layers.0.mlp.down_proj"
    found, whole = load_arrays(next(kept.folder.glob("*.safetensors"))), load_arrays(dense.folder / "model.safetensors")
    module = dict(models.open_lazily(models.find_model(ModelSection(path=str(base)))).named_modules())[layer]
    settings = {"group_size": module.group_size, "bits": module.bits, "mode": module.mode}
    expected = mx.quantize(whole[f"{layer}.weight"], **settings)
    for part, value in zip(("weight", "scales", "biases"), expected, strict=False):
        assert mx.array_equal(found[f"{layer}.{part}"], value)


@pytest.mark.parametrize("packing", ["keep", pytest.param("8", marks=SLOW)])
@pytest.mark.parametrize("family", ["gemma3", pytest.param("qwen3_vl", marks=SLOW)])
def test_packed_folders_of_dense_bases(family: str, packing: Any, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """What was quantized on loading, or is to be, has mlx-vlm's layout, and stands for nearly what was trained."""
    made = train(checkpoint(family), tmp_path, **(PACKED if packing == "keep" else {}))
    fused = fuse(str(tmp_path), quantize=packing)
    assert fused.layout == "mlx"
    assert fused.n_quantized
    assert fused.rounding.share < (0.15 if packing == "keep" else 0.01)
    assert differ(made, fused) < (3.0 if packing == "keep" else 0.3)


def test_types_stay(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """A base in bfloat16 stays one; sums are taken in float32, and rounded once."""
    base = Path(shutil.copytree(checkpoint("qwen3_vl"), tmp_path / "base"))
    arrays = {name: value.astype(mx.bfloat16) for name, value in load_arrays(base / "model.safetensors").items()}
    mx.eval(arrays)
    mx.save_safetensors(str(base / "model.safetensors"), arrays, {"format": "pt"})
    made = make_trainable(base)
    vlora.save_adapter(tmp_path / "run" / "adapters.safetensors", made.state.params, made.config)
    fused = fuse(str(tmp_path / "run"))
    found = load_arrays(fused.folder / "model.safetensors")
    assert {value.dtype for value in found.values()} == {mx.bfloat16}
    layer = "language_model.model.layers.0.mlp.down_proj"
    update = made.state.params[f"{layer}.lora_a"] @ made.state.params[f"{layer}.lora_b"]
    scale = made.config["lora_parameters"]["scale"]
    exact = arrays[f"{layer}.weight"].astype(mx.float32) + scale * update.T
    assert mx.array_equal(found[f"{layer}.weight"], exact.astype(mx.bfloat16))


def test_many_files(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Files have the hub's names, and an index says what is in which."""
    made = train(checkpoint("qwen3_vl"), tmp_path)
    fused = fuse(str(tmp_path), largest=200_000)
    names = sorted(file.name for file in fused.folder.glob("*.safetensors"))
    assert names[0] == f"model-00001-of-{len(names):05d}.safetensors"
    assert len(names) > 2
    index = json.loads((fused.folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == fused.n_bytes
    assert set(index["weight_map"].values()) == set(names)
    assert differ(made, fused) < 1e-5


def test_what_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Nothing is written over; damaged adapters and those of another architecture are refused, and nothing is left."""
    train(checkpoint("qwen3_vl"), tmp_path / "run")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    with pytest.raises(RecipeError, match=r"^--out: .*there is there already"):
        fuse(str(tmp_path / "run"), tmp_path / "there")
    with pytest.raises(CheckpointError, match="names or shapes"):
        fuse(str(tmp_path / "run"), base=str(checkpoint("qwen2_vl")))
    arrays = dict(load_arrays(tmp_path / "run" / "adapters.safetensors"))
    name = next(iter(arrays))
    arrays[name] = mx.full(arrays[name].shape, float("nan"))
    mx.save_safetensors(str(tmp_path / "run" / "adapters.safetensors"), arrays)
    with pytest.raises(CheckpointError, match="are not finite"):
        fuse(str(tmp_path / "run"))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"adapters.safetensors", "adapter_config.json"}
