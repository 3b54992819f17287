"""An adapter's parameters are found in transformers', on a published folder and on a converted one alike."""

import json
from pathlib import Path

import mlx.core as mx
import pytest

from tests.arrays import load_arrays
from tests.checkpoints import build_checkpoint
from tests.golden.mlx_side import write_folder
from vlora import models
from vlora.models.load import loading
from vlora.models.published.places import Places, find_places
from vlora.recipe.schema import ModelSection

LAYERS = {
    "qwen3_vl": ("language_model.model.layers.1.mlp.up_proj", "vision_tower.blocks.0.attn.qkv"),
    "idefics3": ("language_model.layers.0.self_attn.q_proj", "connector.modality_projection.proj"),
    "lfm2_vl": ("language_model.model.layers.2.feed_forward.w1", "vision_tower.encoder.layers.0.mlp.fc1"),
}


def places_in(folder: Path, parameters: list[str]) -> Places:
    section = ModelSection(path=str(folder))
    files = models.find_model(section)
    return find_places(files, loading.abstract_backbone(files, section)[0].module, parameters)


@pytest.mark.parametrize("family", LAYERS)
def test_both_kinds_of_folders_lead_to_the_same_names(tmp_path: Path, family: str) -> None:
    """Of a converted folder the names are searched for, and those that transformers knows are preferred."""
    parameters = [f"{layer}.weight" for layer in LAYERS[family]]
    published = places_in(write_folder(family, tmp_path / "published"), parameters)
    file = build_checkpoint(family, tmp_path / "converted") / "model.safetensors"
    mx.save_safetensors(str(file), load_arrays(file), {"format": "mlx"})
    converted = places_in(file.parent, parameters)
    assert published.names is not None
    for name in parameters:
        (expected,), (found,) = published.links[name], converted.links[name]
        assert found.other == expected.other
        assert published.names.knows(found.other)


def test_a_published_spelling_of_a_family_leads_to_its_names(tmp_path: Path) -> None:
    """The names are those of the family that mlx-vlm takes a spelling for."""
    file = build_checkpoint("lfm2_vl", tmp_path) / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "model_type": "lfm2-vl"}))
    layer = LAYERS["lfm2_vl"][0]
    assert places_in(file.parent, [f"{layer}.weight"]).names is not None
