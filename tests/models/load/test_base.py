"""The identity of a model: the same however it is stored, another one as soon as a weight or a layer is."""

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import mlx.core as mx
import pytest

import vlora
from tests.arrays import load_arrays
from tests.training import Trainable, make_trainable
from vlora.errors import CheckpointError
from vlora.models.load.base import fingerprint_weights
from vlora.output.base_identity import BaseIdentity


def write(folder: Path, arrays: dict[str, mx.array], n_files: int = 1) -> None:
    """Write a folder's weights anew, in so many files."""
    for file in [*folder.glob("*.safetensors"), *folder.glob("*.index.json")]:
        file.unlink()
    names = sorted(arrays)
    index: dict[str, str] = {}
    for number in range(n_files):
        shard, chosen = f"model-{number}.safetensors", names[number::n_files]
        mx.save_safetensors(str(folder / shard), {name: arrays[name] for name in chosen})
        index |= dict.fromkeys(chosen, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}), encoding="utf-8")


def read(folder: Path) -> dict[str, mx.array]:
    """Read a folder's weights."""
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_arrays(file).items()}


def identity(folder: Path, **overrides: Any) -> BaseIdentity:
    """Give the identity of a folder's model as a recipe loads it."""
    base = make_trainable(folder, **overrides).backbone.base
    assert base is not None
    return base


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """Copy a tiny model."""
    return Path(copytree(checkpoint("qwen3_vl"), tmp_path / "model"))


def test_fingerprints(folder: Path) -> None:
    """Files may be divided otherwise; one number, one name or one type that is another one is seen."""
    arrays, before = read(folder), fingerprint_weights(folder)
    name, *_ = sorted(arrays)
    write(folder, arrays, 3)
    assert fingerprint_weights(folder) == before
    changed = mx.array(arrays[name])
    changed[(0,) * changed.ndim] += 1
    for other in ({name: changed}, {name: arrays[name].astype(mx.float16)}, {f"{name}_": arrays[name]}):
        write(folder, {**arrays, **other})
        assert fingerprint_weights(folder) != before
    next(folder.glob("*.safetensors")).write_bytes(b"")
    assert fingerprint_weights(folder) is None


def test_one_architecture_however_it_is_stored(folder: Path) -> None:
    """Quantized on loading or not, with or without new tokens, it is one architecture; with a layer less it is not."""
    base = identity(folder)
    quantized = identity(folder, model__quantize_bits=4, model__quantize_group_size=32)
    assert (quantized.architecture, quantized.weights) == (base.architecture, base.weights)
    assert (base.precision, quantized.precision) == ("float32", "4 bits (affine, groups of 32)")
    assert base.compare(quantized) == "weights"
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] -= 1
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    last = f"language_model.model.layers.{config['text_config']['num_hidden_layers']}."
    write(folder, {name: value for name, value in read(folder).items() if not name.startswith(last)})
    assert base.compare(identity(folder)) == "architecture"


def saved(made: Trainable, path: Path) -> Path:
    """Write a model's adapter."""
    vlora.save_adapter(path, made.state.params, made.config)
    return path


def test_adapters_know_their_base(folder: Path, tmp_path: Path) -> None:
    """On its base an adapter loads silently, on other weights with a line, or not at all where a recipe is strict."""
    adapter = saved(make_trainable(folder), tmp_path / "adapters.safetensors")
    assert make_trainable(folder, model__adapter_path=str(adapter)).backbone.base_note is None
    quantizing = {"model__quantize_bits": 4, "model__quantize_group_size": 32}
    loaded = make_trainable(folder, model__adapter_path=str(adapter), **quantizing)
    note = loaded.backbone.base_note
    assert note is not None
    assert "(qwen3_vl, " in note
    assert "float32" in note
    assert "4 bits (affine, groups of 32)" in note
    assert loaded.config["base"]["precision"] == "4 bits (affine, groups of 32)"
    assert loaded.config["base_quantization"]
    with pytest.raises(CheckpointError, match=r"model\.strict_base = true refuses"):
        make_trainable(folder, model__adapter_path=str(adapter), model__strict_base=True, **quantizing)
    # And back: what was trained on packed weights, on those that are not.
    back = make_trainable(folder, model__adapter_path=str(saved(loaded, tmp_path / "back" / "adapters.safetensors")))
    assert back.backbone.base_note is not None
    assert "base_quantization" not in back.config


def test_another_architecture_is_refused(checkpoint: Callable[[str], Path], tmp_path: Path, folder: Path) -> None:
    """The sentence names both models; an adapter without a record is told of in a line."""
    adapter = saved(make_trainable(checkpoint("qwen2_vl")), tmp_path / "adapters.safetensors")
    with pytest.raises(
        CheckpointError, match=r"^model\.path: .*\(qwen2_vl, .*\(qwen3_vl, .*give the model that it was"
    ):
        make_trainable(folder, model__adapter_path=str(adapter))
    adapter = saved(make_trainable(folder), adapter)
    config = json.loads(adapter.with_name("adapter_config.json").read_text())
    del config["base"]
    adapter.with_name("adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    note = make_trainable(folder, model__adapter_path=str(adapter)).backbone.base_note
    assert note is not None
    assert "is not recorded" in note
