"""For llama.cpp the scale is in the factors, and what it has no form for is refused."""

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from tests.export.test_vllm import adapter
from vlora.errors import ModelError
from vlora.export.gguf import gguf_usage, to_gguf


def test_the_scale_is_in_the_factors() -> None:
    """Alpha is r, so that the converter's alpha / rank times the factors is the update, of every rank."""
    ranks = {"a.b": 4, "a.c": 6}
    arrays = {f"base_model.model.{name}.lora_B.weight": np.ones((3, rank), np.float32) for name, rank in ranks.items()}
    made = to_gguf(attrs.evolve(adapter(rank_pattern={r"a\.c": 6}), arrays=arrays), {})
    assert (made.config["lora_alpha"], made.config["r"], made.config["alpha_pattern"]) == (4, 4, {})
    for name, rank in ranks.items():
        found = made.arrays[f"base_model.model.{name}.lora_B.weight"]
        np.testing.assert_allclose(found * made.config["lora_alpha"] / rank, 2.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "outside", "told"),
    [
        ({"use_dora": True}, (), "no DoRA"),
        ({"modules_to_save": ["lm_head"]}, (), "trained whole"),
        ({"target_parameters": ["x.experts.down_proj"]}, (), "experts"),
        ({}, ("model.visual.x",), "towers and connectors, as on model.visual.x"),
    ],
)
def test_what_it_has_no_form_for_is_refused(config: dict[str, Any], outside: tuple[str, ...], told: str) -> None:
    """One sentence, which says to fuse and to convert the model."""
    with pytest.raises(ModelError, match=f"^--to gguf: .*{told}.*vlora fuse.*--mmproj"):
        to_gguf(adapter(outside, **config), {"model_type": "x"})


def test_a_layer_that_is_named_as_a_parameter_is_no_expert() -> None:
    """PEFT is given dense layers beside experts so; their rank is baked in as that of others."""
    arrays = {"base_model.model.x.gate_proj.lora_B.weight": np.ones((3, 8), np.float32)}
    named: dict[str, Any] = {"target_parameters": ["x.gate_proj.weight"], "rank_pattern": {r"x\.gate_proj\.weight": 8}}
    made = to_gguf(attrs.evolve(adapter(**named), arrays=arrays), {"model_type": "x"})
    found = made.arrays["base_model.model.x.gate_proj.lora_B.weight"]
    np.testing.assert_allclose(found * made.config["lora_alpha"] / 8, 2.0, rtol=1e-6)


def test_both_commands_are_told(tmp_path: Path) -> None:
    """The base is a folder or a name of the hub, which the converter is told in other words."""
    convert, use = gguf_usage(adapter(), Path("out"))
    assert convert == ("python convert_lora_to_gguf.py out --base-model-id some/model --outtype f16 --outfile out.gguf")
    assert "--lora out.gguf" in use
    (folder, _) = gguf_usage(adapter(base_model_name_or_path=str(tmp_path)), Path("out"))
    assert f"--base {tmp_path}" in folder
