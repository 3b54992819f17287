"""What mlx-vlm's conversion quantizes, and what its configuration says then."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mlx_vlm.convert import convert

from vlora.models.load.conversion import choose_schemes, quantized_config, scheme_of
from vlora.models.load.loading import open_lazily
from vlora.models.load.model_files import find_model
from vlora.recipe.schema import ModelSection


@pytest.mark.parametrize("family", ["qwen3_vl", "gemma3"])
def test_layers_and_configuration_are_those_of_mlx_vlm(
    family: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """The same layers are chosen from the plain model and from the quantized one, and config.json says the same."""
    convert(str(checkpoint(family)), str(tmp_path / "q"), quantize=True, q_bits=4, q_group_size=64)
    plain, packed = (find_model(ModelSection(path=str(path))) for path in (checkpoint(family), tmp_path / "q"))
    module = open_lazily(packed)
    expected = {name: scheme for name, layer in module.named_modules() if (scheme := scheme_of(layer)) is not None}
    assert expected
    assert choose_schemes(open_lazily(plain), 4) == expected
    assert choose_schemes(module, 4) == expected
    written = json.loads((tmp_path / "q" / "config.json").read_text())
    found = quantized_config(plain.config, expected)
    assert found["quantization"] == {"group_size": 64, "bits": 4, "mode": "affine"} | {
        name: value for name, value in written["quantization"].items() if isinstance(value, dict)
    }
    assert found["quantization_config"] == found["quantization"]
    assert "quantization" not in quantized_config(packed.config, {})


def test_layers_that_differ_are_named() -> None:
    """Most layers' settings are common, and others are said by name."""
    usual, other = ({"group_size": 64, "bits": bits, "mode": "affine"} for bits in (4, 8))
    found = quantized_config({"model_type": "x"}, {"a": usual, "b": usual, "c": other})
    assert found["quantization"] == {**usual, "c": other}
