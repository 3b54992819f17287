"""A model's folder says where its parameters lie; a converted folder's layers are found by their family's renaming."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from tests.arrays import load_arrays
from tests.checkpoints import build_checkpoint
from tests.golden.mlx_side import write_folder
from vlora import models
from vlora.models.load import loading
from vlora.models.published.names import find_published_names, read_published_names
from vlora.recipe.schema import ModelSection

FAMILIES = ["qwen2_vl", "qwen3_vl_moe", "idefics3", "qwen3_5", "gemma4"]


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_put_together_from_published_tensors(tmp_path: Path, family: str) -> None:
    """What the pieces of a published folder read is what mlx-vlm loads, of all parameters; nothing is computed."""
    folder = write_folder(family, tmp_path / "model")
    section = ModelSection(path=str(folder))
    files = models.find_model(section)
    names = read_published_names(files, loading.abstract_backbone(files, section)[0].module)
    tensors = load_arrays(folder / "model.safetensors")
    loaded = dict(tree_flatten(models.load_backbone(files, section)[0].module.parameters()))
    assert not names.is_converted
    assert set(names.pieces) == set(loaded)
    for parameter, pieces in names.pieces.items():
        for piece in pieces:
            read = np.array(piece.read(tensors[piece.name])) + piece.offset
            np.testing.assert_array_equal(read, np.array(loaded[parameter][piece.target]))


def test_a_converted_folder_is_told_and_its_layers_are_found(tmp_path: Path) -> None:
    """Its tensors are the model's own; layers, quantized ones too, are found under the names that were published."""
    folder = build_checkpoint("qwen3_vl", tmp_path / "model")
    file = folder / "model.safetensors"
    mx.save_safetensors(str(file), load_arrays(file), {"format": "mlx"})
    section = ModelSection(path=str(folder), quantize_bits=4, quantize_group_size=32)
    files = models.find_model(section)
    backbone, _ = models.load_backbone(files, section)
    plain = models.load_backbone(files, ModelSection(path=str(folder)))[0].module
    names = read_published_names(files, plain)
    assert names.is_converted
    assert names.pieces["vision_tower.blocks.0.attn.qkv.weight"][0].name == "vision_tower.blocks.0.attn.qkv.weight"
    layers = ["language_model.model.layers.0.mlp.up_proj", "vision_tower.merger.linear_fc1"]
    found = find_published_names(files, backbone.module, layers)
    assert [found[layer][0].name for layer in layers] == [
        "model.language_model.layers.0.mlp.up_proj.weight",
        "model.visual.merger.linear_fc1.weight",
    ]
