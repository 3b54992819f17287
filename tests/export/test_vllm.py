"""What vLLM does not take is refused before it is written, and what it takes is served by one command."""

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from vlora.errors import ModelError
from vlora.export.peft import PeftAdapter
from vlora.export.vllm import check_vllm, to_vllm, vllm_usage
from vlora.models.published.places import Places

PLAIN: dict[str, Any] = {
    "base_model_name_or_path": "some/model",
    "alpha_pattern": {},
    "lora_alpha": 8,
    "modules_to_save": None,
    "r": 4,
    "rank_pattern": {},
    "target_modules": ["model.language_model.layers.0.mlp.up_proj"],
    "target_parameters": None,
    "use_dora": False,
}


def adapter(outside: tuple[str, ...] = (), **config: Any) -> PeftAdapter:
    places = Places(links={}, shapes={}, tied={}, names=None, is_converted=False)
    return PeftAdapter(arrays={}, config={**PLAIN, **config}, places=places, is_converted=False, outside=outside)


@pytest.mark.parametrize(
    ("kind", "made", "told"),
    [
        ("qwen3_vl", adapter(use_dora=True), "no DoRA"),
        ("qwen3_vl", adapter(modules_to_save=["lm_head"]), "trained whole"),
        ("qwen3_vl", adapter(rank_pattern={"x": 600}), "ranks up to 512, and the adapter has 600"),
        ("gemma3n", adapter(), "no adapters of gemma3n models"),
        ("mllama", adapter(), "serves no mllama models"),
        ("mistral3", adapter(("model.vision_tower.x",)), "passes over adapters of mistral3 towers"),
    ],
)
def test_what_it_does_not_take_is_refused(kind: str, made: PeftAdapter, told: str) -> None:
    """One sentence, which says to fuse."""
    with pytest.raises(ModelError, match=f"^--to vllm: .*{told}.*vlora fuse"):
        check_vllm(made, {"model_type": kind})


def test_the_command_names_what_it_needs() -> None:
    """The rank is one that vLLM knows, and towers need an option."""
    check_vllm(adapter(("model.visual.x",)), {"model_type": "qwen3_vl"})
    (command,) = vllm_usage(adapter(("model.visual.x",), rank_pattern={"x": 20}), Path("out"))
    assert "--max-lora-rank 32 --enable-tower-connector-lora --lora-modules tuned=out" in command
    (plain,) = vllm_usage(adapter(), Path("out"))
    assert "--max-lora-rank 8 --lora-modules" in plain


def test_towers_are_called_as_vllm_calls_them() -> None:
    """CLIP's layers lie one level deeper there than in transformers 5; Qwen's have the same name."""
    tower, text = "model.vision_tower.encoder.layers.0.mlp.fc1", "model.language_model.layers.0.mlp.up_proj"
    arrays = {f"base_model.model.{name}.lora_A.weight": np.zeros(1) for name in (tower, text)}
    pattern = {tower.replace(".", r"\."): 8}
    made = attrs.evolve(adapter((tower,), target_modules=[tower, text], rank_pattern=pattern), arrays=arrays)
    found = to_vllm(made, {"model_type": "llava", "vision_config": {"model_type": "clip_vision_model"}})
    deeper = "model.vision_tower.vision_model.encoder.layers.0.mlp.fc1"
    assert set(found.config["target_modules"]) == {deeper, text}
    assert set(found.arrays) == {f"base_model.model.{name}.lora_A.weight" for name in (deeper, text)}
    assert found.config["rank_pattern"] == {deeper.replace(".", r"\."): 8}
    assert to_vllm(made, {"model_type": "qwen3_vl"}) is made
