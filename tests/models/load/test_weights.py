"""Weights that are named or lie otherwise than mlx-vlm expects."""

import json
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from tests.arrays import load_arrays
from tests.models.load.test_config_translation import copy_checkpoint, logits, spell_anew
from vlora.models.load.weights import rename_parameters, turn_experts


@pytest.mark.parametrize("family", ["llava", "mistral3"])
def test_newer_names_of_parameters_load(family: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Towers of transformers 5 are no longer `vision_model` within `vision_tower`."""
    config = json.loads((checkpoint(family) / "config.json").read_text())
    folder = copy_checkpoint(checkpoint(family), tmp_path / "newer", spell_anew(config))
    weights = load_arrays(folder / "model.safetensors")
    renamed = {name.replace("vision_tower.vision_model.", "vision_tower."): value for name, value in weights.items()}
    assert renamed.keys() != weights.keys()
    assert rename_parameters(renamed).keys() == weights.keys()
    mx.save_safetensors(str(folder / "model.safetensors"), renamed)
    np.testing.assert_array_equal(logits(folder), logits(checkpoint(family)))


def test_experts_are_turned() -> None:
    """A mixture's experts come as they were published, in whichever way they lie."""
    config = {"text_config": {"hidden_size": 4}}
    gate_up, down = mx.arange(2 * 4 * 6).reshape(2, 4, 6), mx.arange(2 * 3 * 4).reshape(2, 3, 4)
    published = {"a.experts.gate_up_proj": gate_up, "a.experts.down_proj": down, "a.gate.weight": mx.zeros((2, 4))}
    newer = {name: value.swapaxes(1, 2) if value.ndim > 2 else value for name, value in published.items()}
    for weights in (published, newer):
        turned = turn_experts(weights, config)
        assert all(mx.array_equal(turned[name], value) for name, value in published.items())
