"""Rotary embeddings that mlx-vlm leaves unscaled are scaled as the configuration says; scaled ones are left alone."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlx import nn

from tests.models.load.test_config_translation import copy_checkpoint, logits, spell_anew
from tests.models.load.test_transformers5 import LLAMA3, THETA, Config
from vlora import models
from vlora.errors import ModelError
from vlora.models.load.rope_scaling import find_scaling, scale_rotations
from vlora.recipe.schema import ModelSection

LINEAR = {"rope_type": "linear", "factor": 4.0}


SHORT_LLAMA3 = {**LLAMA3, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(("family", "scaling"), [("idefics3", SHORT_LLAMA3), ("idefics2", LINEAR), ("smolvlm", LINEAR)])
def test_scaling_is_put_in_where_mlx_vlm_drops_it(
    family: str, scaling: Config, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Families whose classes have no field for a scaling have it all the same, in either spelling."""
    config = json.loads((checkpoint(family) / "config.json").read_text())
    config["text_config"]["rope_theta"] = THETA
    plain = copy_checkpoint(checkpoint(family), tmp_path / "plain", config)
    config["text_config"]["rope_scaling"] = {key: value for key, value in scaling.items() if key != "rope_theta"}
    older = copy_checkpoint(checkpoint(family), tmp_path / "older", config)
    folder = copy_checkpoint(checkpoint(family), tmp_path / "newer", spell_anew(config))
    assert not np.allclose(logits(older), logits(plain), atol=1e-2)
    np.testing.assert_array_equal(logits(folder), logits(older))
    for path, config_differs_upstream in ((plain, False), (older, True), (folder, True)):
        assert models.find_model(ModelSection(path=str(path))).config_differs_upstream == config_differs_upstream
    section = ModelSection(path=str(older))
    backbone, _ = models.load_backbone(models.find_model(section), section)
    kinds = {type(layer.self_attn.rope).__name__ for layer in backbone.layers}
    assert kinds == {"Llama3RoPE" if scaling is SHORT_LLAMA3 else "RoPE"}
    if scaling is LINEAR:
        assert {layer.self_attn.rope.scale for layer in backbone.layers} == {1 / 4}


def test_scaling_that_mlx_vlm_has_is_left_to_it() -> None:
    """Nothing is scaled twice; what cannot be scaled is refused, in words that name the model."""

    class Layers(nn.Module):
        def __init__(self, *rotations: nn.Module) -> None:
            super().__init__()
            self.rotations = [Layer(rotation) for rotation in rotations]

    class Layer(nn.Module):
        def __init__(self, rotation: nn.Module) -> None:
            super().__init__()
            self.rope = rotation

    scaling = find_scaling({"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": THETA})
    assert scaling is not None
    model = Layers(nn.RoPE(8, base=THETA), nn.RoPE(8, base=THETA, scale=1 / 8))
    scale_rotations(model, scaling, "a model")
    assert [layer.rope.scale for layer in model.rotations] == [1.0, 1 / 8]
    model = Layers(nn.RoPE(8, base=THETA), nn.RoPE(8, base=THETA))
    with pytest.raises(ModelError, match="'a model' scales its rotary embedding \\(yarn\\)"):
        scale_rotations(model, {**scaling, "type": "yarn"}, "a model")
    scale_rotations(model, scaling, "a model")
    assert [(layer.rope.scale, layer.rope.base) for layer in model.rotations] == [(1 / 4, THETA)] * 2
    assert find_scaling({"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}) is None
    assert find_scaling({"rope_scaling": None}) is None
