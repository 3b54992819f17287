"""Quantizations as mlx-community publishes them load, and a LoRA on them has the numbers of what they stand for."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx_vlm.convert import convert

from tests.arrays import load_arrays
from tests.training import Trainable, make_trainable
from vlora import collate, make_train_step, models
from vlora.ops.quantized import DEQUANTIZE_MIN_ROWS
from vlora.recipe.schema import ModelSection

CheckpointFactory = Callable[[str], Path]


def uneven(path: str, _: nn.Module) -> bool | dict[str, Any]:
    """Quantize as published mixtures are: some layers more finely, some not at all, the tower not."""
    if "vision" in path or "v_proj" in path:
        return False
    return {"bits": 8, "group_size": 64, "mode": "affine"} if "q_proj" in path else True


MODES: dict[str, dict[str, Any]] = {
    "4-bit": {"q_bits": 4, "q_group_size": 32},
    "6-bit": {"q_bits": 6, "q_group_size": 32},
    "8-bit": {"q_bits": 8, "q_group_size": 64},
    "mxfp4": {"q_mode": "mxfp4", "q_bits": None, "q_group_size": None},
    "nvfp4": {"q_mode": "nvfp4", "q_bits": None, "q_group_size": None},
    "mxfp8": {"q_mode": "mxfp8", "q_bits": None, "q_group_size": None},
    "uneven": {"q_bits": 4, "q_group_size": 32, "quant_predicate": uneven},
    "mixed_4_6": {"q_bits": 4, "q_group_size": 32, "quant_predicate": "mixed_4_6"},
}

USUAL = ("4-bit", "8-bit", "mxfp4", "nvfp4", "uneven")
"""Modes that the usual run tries; the others differ from them in one number."""


def quantize(base: Path, folder: Path, mode: str) -> Path:
    """Write a quantized checkpoint with mlx-vlm's own command."""
    convert(str(base), str(folder), quantize=True, **MODES[mode])
    return folder


def unpack(base: Path, packed: Path, folder: Path) -> Path:
    """Write a checkpoint with the weights that a quantized one stands for, as the plain one that it was made of."""
    section = ModelSection(path=str(packed))
    backbone, _ = models.load_backbone(models.find_model(section), section)
    shutil.copytree(base, folder)
    weights = load_arrays(base / "model.safetensors")
    for name, layer in backbone.module.named_modules():
        if "scales" in layer:
            settings = {"group_size": layer.group_size, "bits": layer.bits, "mode": layer.mode}
            value = mx.dequantize(layer.weight, layer.scales, layer.get("biases"), **settings)
            assert value.shape == weights[f"{name}.weight"].shape
            # MLX looks embeddings of the floating-point modes up in bfloat16, which holds their values exactly.
            is_table = isinstance(layer, nn.QuantizedEmbedding)
            weights[f"{name}.weight"] = value if is_table else value.astype(mx.float32)
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    return folder


def first_step(trainable: Trainable, n_rows: int) -> tuple[float, dict[str, np.ndarray]]:
    """Take a step of plain descent at rate 1; its loss and its gradients."""
    step = make_train_step(trainable.backbone, trainable.optimizer)
    state, output = step(trainable.state, [collate(trainable.examples[:n_rows])], learning_rate=1.0)
    mx.eval(state, output)
    before = trainable.state.params
    gradients = {name: np.array(before[name] - value) for name, value in state.params.items()}
    return float(output.nll_sum / output.n_supervised), gradients


@pytest.mark.parametrize(
    ("family", "mode"),
    [
        *(pytest.param("qwen3_vl", mode, marks=[] if mode in USUAL else pytest.mark.slow) for mode in MODES),
        *(("qwen3_vl_moe", mode) for mode in ("mxfp4", "uneven")),
        *(pytest.param("qwen3_vl_moe", mode, marks=pytest.mark.slow) for mode in ("4-bit", "nvfp4")),
    ],
)
def test_lora_on_quantized_folder_has_the_numbers_of_its_weights(
    family: str, mode: str, checkpoint: CheckpointFactory, tmp_path: Path
) -> None:
    """Loss and gradients equal those on the unpacked weights, for few rows and for many."""
    packed = quantize(checkpoint(family), tmp_path / "packed", mode)
    plain = unpack(checkpoint(family), packed, tmp_path / "plain")
    options = {"optim__name": "sgd", "optim__betas": [0.0, 0.0]}
    found, expected = (make_trainable(folder, **options) for folder in (packed, plain))
    config = json.loads((packed / "config.json").read_text())["quantization"]
    kinds = {
        (layer.bits, layer.group_size, layer.mode)
        for _, layer in found.backbone.module.named_modules()
        if "scales" in layer
    }
    assert len(kinds) == (2 if mode in ("uneven", "mixed_4_6") else 1)
    if mode != "mixed_4_6":  # which names every layer
        assert (config["bits"], config["group_size"], config["mode"]) in kinds
    n_tokens = [len(example.tokens) for example in found.examples]
    assert n_tokens[0] < DEQUANTIZE_MIN_ROWS < sum(n_tokens)
    for n_rows in (1, len(n_tokens)):
        (loss, gradients), (right_loss, right) = first_step(found, n_rows), first_step(expected, n_rows)
        assert loss == pytest.approx(right_loss, rel=1e-5)
        assert gradients.keys() == right.keys()
        for name, value in right.items():
            assert np.abs(value).max() > 0
            np.testing.assert_allclose(gradients[name], value, atol=2e-5 * max(1.0, np.abs(value).max()), err_msg=name)


@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
def test_either_key_says_how(key: str, checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Folders may have one key or the other; mlx-vlm writes both and reads the first."""
    packed = quantize(checkpoint("qwen3_vl"), tmp_path / "packed", "uneven")
    config = json.loads((packed / "config.json").read_text())
    del config["quantization" if key == "quantization_config" else "quantization_config"]
    (packed / "config.json").write_text(json.dumps(config))
    layer = make_trainable(packed).backbone.language_model.model.layers[0].self_attn
    assert (layer.q_proj.linear.bits, layer.k_proj.linear.bits) == (8, 4)
    assert type(layer.v_proj.linear) is nn.Linear


def test_newer_configuration_of_quantized_folder(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """mlx-vlm copies transformers 5's words into what it converts; the translation keeps the quantization."""
    packed = quantize(checkpoint("idefics3"), tmp_path / "packed", "4-bit")
    config = json.loads((packed / "config.json").read_text())
    text = config["text_config"]
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": text.pop("rope_theta")}
    (packed / "config.json").write_text(json.dumps(config))
    trainable = make_trainable(packed)
    assert trainable.backbone.module.config.text_config.rope_theta == text["rope_parameters"]["rope_theta"]
    assert (
        first_step(trainable, 1)[0]
        == first_step(make_trainable(quantize(checkpoint("idefics3"), tmp_path / "older", "4-bit")), 1)[0]
    )
