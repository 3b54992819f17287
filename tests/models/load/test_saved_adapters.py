"""Adapters of PEFT and mlx-lm are gone on from with the same logits; damaged and foreign ones are refused whole."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_map
from mlx_vlm import utils as mlx_vlm_utils
from mlx_vlm.trainer.common.utils import save_trainable_weights
from mlx_vlm.trainer.peft import get_peft_model

from tests.arrays import load_arrays
from tests.export.adapters import write_adapter
from tests.golden.mlx_side import write_folder
from vlora import models
from vlora.adapters.attached import lora_layers
from vlora.errors import VloraError
from vlora.export.programs import export
from vlora.models.load import loading
from vlora.models.load.saved_adapters import open_adapter
from vlora.recipe.schema import ModelSection

Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of vlora's, and the same as PEFT writes it in `peft`."""
    found = write_adapter(tmp_path_factory.mktemp("own"), rank=2, alpha=3.0, targets=("q_proj", "v_proj"))
    export(str(found), "peft")
    return found


def load_base(own: Path) -> tuple[models.ModelFiles, models.MlxVlmBackbone]:
    section = ModelSection(path=str(own.parent / "model"))
    files = models.find_model(section)
    return files, models.load_backbone(files, section)[0]


def test_peft_folders_are_gone_on_from(own: Path) -> None:
    """The adapter that is attached is the one that was exported, to the bit, and a line names its base."""
    files, backbone = load_base(own)
    config = models.load_adapter(backbone, own / "peft", files=files)
    expected = load_arrays(own / "adapters.safetensors")
    layers = dict(lora_layers(backbone.module))
    assert {f"{name}.lora_a" for name in layers} == {name for name in expected if name.endswith("lora_a")}
    for name, layer in layers.items():
        np.testing.assert_array_equal(np.array(layer.lora_a), np.array(expected[f"{name}.lora_a"]))
        np.testing.assert_array_equal(np.array(layer.lora_b), np.array(expected[f"{name}.lora_b"]))
        assert layer.scale == 1.5
    assert (config["fine_tune_type"], config["lora_parameters"]["rank"]) == ("lora", 2)
    assert backbone.base_note is not None


def test_adapters_of_mlx_vlm_s_trainer_have_its_logits(own: Path, tmp_path: Path) -> None:
    """Its first layout, which it calls legacy, has other names for the factors, and no list of layers."""
    files, backbone = load_base(own)
    for kind in ({"legacy": True}, {"use_dora": True}):
        folder = tmp_path / min(kind)
        theirs = get_peft_model(mlx_vlm_utils.load_model(files.path), rank=3, alpha=6.0, verbose=False, **kind)
        theirs.update(
            tree_map(lambda value: value + 0.1 * mx.random.normal(value.shape), theirs.trainable_parameters())
        )
        save_trainable_weights(theirs, folder / "adapters.safetensors")
        assert ("alpha" in json.loads((folder / "adapter_config.json").read_text())) == ("legacy" in kind)
        config = models.load_adapter(backbone, folder, files=files)
        tokens = mx.array([[1, 5, 9, 4]])
        with loading.generating(backbone) as module:
            found = module(tokens, None, mask=None).logits
        theirs.eval()
        expected = theirs(tokens, None, mask=None).logits
        np.testing.assert_allclose(np.array(found), np.array(expected), rtol=1e-5, atol=1e-5)
        assert len(config["lora_parameters"]["keys"]) == 14


@pytest.mark.parametrize("names", ["mlx-lm", "mlx-vlm"])
def test_adapters_without_a_list_of_layers_are_read(own: Path, tmp_path: Path, names: str) -> None:
    """mlx-lm names no layers and calls them as the language model alone does; mlx-vlm's first ones have alpha."""
    arrays = load_arrays(own / "adapters.safetensors")
    if names == "mlx-lm":
        arrays = {name.removeprefix("language_model."): value for name, value in arrays.items()}
        config: dict[str, Any] = {"num_layers": 2, "lora_parameters": {"rank": 2, "scale": 1.5, "dropout": 0.0}}
        config["fine_tune_type"] = "lora"
    else:
        ends = {"lora_a": "A", "lora_b": "B"}
        arrays = {f"{name[:-6]}{ends[name[-6:]]}": value for name, value in arrays.items()}
        config = {"rank": 2, "alpha": 3.0, "dropout": 0.0}
    mx.save_safetensors(str(tmp_path / "adapters.safetensors"), arrays)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    files, backbone = load_base(own)
    models.load_adapter(backbone, tmp_path, files=files)
    assert {layer.scale for _, layer in lora_layers(backbone.module)} == {1.5}
    assert len(list(lora_layers(backbone.module))) == 4
    if names == "mlx-lm":
        # It lists ends of names, of which some may be of no layer.
        for keys, is_refused in ((["q_proj", "none"], False), (["no.such.layer"], True)):
            listed = {**config, "lora_parameters": {**config["lora_parameters"], "keys": keys}}
            (tmp_path / "adapter_config.json").write_text(json.dumps(listed))
            if is_refused:
                with pytest.raises(VloraError, match=r"lists 'no\.such\.layer', and the arrays are of others"):
                    models.load_adapter(backbone, tmp_path, files=files)
            else:
                models.load_adapter(backbone, tmp_path, files=files)


def settings(**changes: Any) -> Change:
    """Change what the configuration says."""

    def change(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def arrays_of(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    """Change the arrays."""

    def write(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        mx.save_safetensors(str(file), change(load_arrays(file)), {"format": "pt"})

    return write


def without_first(arrays: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(arrays.items())[1:])


def without_a_layer(folder: Path) -> None:
    """Take both factors of a layer away."""
    arrays_of(lambda arrays: {name: arrays[name] for name in arrays if "layers.0.self_attn.q_proj" not in name})(folder)


def renamed(old: str, new: str) -> Change:
    return arrays_of(lambda arrays: {name.replace(old, new): value for name, value in arrays.items()})


def first(function: Callable[[mx.array], mx.array]) -> Change:
    """Change the first array."""
    return arrays_of(lambda arrays: {**arrays, min(arrays): function(arrays[min(arrays)])})


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def cut(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def no_json(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{")


def missing(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


DAMAGED: dict[str, tuple[Change, str]] = {
    "no arrays": (missing("adapter_model.safetensors"), "found no"),
    "no configuration": (missing("adapter_config.json"), "found no"),
    "no json": (no_json, "adapter_config.json"),
    "cut": (cut, "cannot be read"),
    "pickle": (pickled, "is pickled, and reading it would run code"),
    "another rank": (settings(r=4), "was it trained on another model or rank"),
    "no rank": (settings(r=None), "r: found None, expected a number above 0"),
    "a rank that is a text": (settings(r="2"), "r: found '2'"),
    "no alpha": (settings(lora_alpha=0), "lora_alpha: found 0"),
    "another method": (settings(peft_type="VERA"), "type 'VERA'; expected 'LORA'"),
    "biases": (settings(bias="lora_only"), "bias: found 'lora_only'"),
    "copied layers": (settings(layer_replication=[[0, 1]]), "layer_replication"),
    "another start": (settings(init_lora_weights="pissa"), "its base is not the published one"),
    "dora without lengths": (settings(use_dora=True), "use_dora is True"),
    "one factor": (arrays_of(without_first), "without its other factor"),
    "a layer that is named": (without_a_layer, "names model.language_model.layers.0.self_attn.q_proj, of which it has"),
    "a table that is named": (settings(modules_to_save=["lm_head"]), "names lm_head, of which it has no array"),
    "targets that are none": (settings(target_modules=7), "target_modules: found 7, expected a list of names"),
    "targets that are no pattern": (settings(target_modules="("), "which is no pattern"),
    "whole numbers": (first(lambda value: value.astype(mx.int32)), "is of int32; expected numbers of floating point"),
    "not finite": (first(lambda value: value * float("nan")), "not finite"),
    "another width": (first(lambda value: value[:, 1:]), "was it trained on another model or rank"),
    "renamed": (renamed("self_attn", "attention"), "for which the model has no layer"),
    "a layer too many": (renamed("layers.1.", "layers.7."), "for which the model has no layer"),
    "text model only": (renamed("model.language_model.", "model.text."), "for which the model has no layer"),
    "another array": (
        arrays_of(lambda arrays: {**arrays, "base_model.model.x.prompt": mx.zeros(2)}),
        "no part of a LoRA on layers",
    ),
    "embedding": (
        arrays_of(lambda arrays: {**arrays, "base_model.model.x.lora_embedding_A": mx.zeros((2, 2))}),
        "no part of a LoRA on layers",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_folders_are_one_sentence(own: Path, tmp_path: Path, damage: str) -> None:
    """The model keeps what it has, and nothing of the folder is attached."""
    change, told = DAMAGED[damage]
    folder = Path(shutil.copytree(own / "peft", tmp_path / "peft"))
    change(folder)
    section = ModelSection(path=str(own.parent / "model"))
    files = models.find_model(section)
    backbone, _ = models.abstract_backbone(files, section)
    with pytest.raises(VloraError, match=told) as raised:
        models.load_adapter(backbone, folder, files=files)
    assert "\n" not in str(raised.value)
    assert list(lora_layers(backbone.module)) == []


def test_an_adapter_of_another_base_is_refused(own: Path, tmp_path: Path) -> None:
    """Layers of the same names and another width are told by their shapes, and other names by theirs."""
    for family in ("qwen2_vl", "gemma3"):
        section = ModelSection(path=str(write_folder(family, tmp_path / family)))
        files = models.find_model(section)
        backbone, _ = models.abstract_backbone(files, section)
        with pytest.raises(VloraError, match="another model"):
            models.load_adapter(backbone, own / "peft", files=files)


def test_peft_folders_need_the_model_files(own: Path) -> None:
    """Their names are found by the checkpoint's; without it that is said."""
    _, backbone = load_base(own)
    with pytest.raises(VloraError, match="give them as `files`"):
        open_adapter(backbone, str(own / "peft"))
