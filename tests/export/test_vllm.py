"""What vLLM does not take is refused before it is written, and what it takes is served by one command."""

import re
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from vlora.errors import ModelError
from vlora.export.peft import PeftAdapter
from vlora.export.vllm import check_vllm, find_vllm_rank, to_vllm, vllm_usage
from vlora.models.published.places import Places

QWEN, MISTRAL = "Qwen3VLForConditionalGeneration", "Mistral3ForConditionalGeneration"
ERNIE = "Ernie4_5_VLMoeForConditionalGeneration"
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
    return PeftAdapter(
        arrays={}, config={**PLAIN, **config}, places=places, is_converted=False, n_layers=0, outside=outside
    )


@pytest.mark.parametrize(
    ("kind", "made", "told"),
    [
        (QWEN, adapter(use_dora=True), "no DoRA"),
        (QWEN, adapter(modules_to_save=["lm_head"]), "trained whole"),
        (QWEN, adapter(rank_pattern={"x": 600}), "ranks up to 512, and the adapter has 600"),
        ("Gemma3nForConditionalGeneration", adapter(), "no adapters of Gemma3nForConditionalGeneration models"),
        ("MllamaForConditionalGeneration", adapter(), "no class for MllamaForConditionalGeneration models"),
        (ERNIE, adapter(target_modules=["model.layers.1.mlp.experts.0.up_proj"]), f"finds no experts of {ERNIE}"),
        (MISTRAL, adapter(("model.vision_tower.x",)), f"passes over adapters of {MISTRAL} towers"),
    ],
)
def test_what_it_does_not_take_is_refused(kind: str, made: PeftAdapter, told: str) -> None:
    """One sentence, which says to fuse."""
    with pytest.raises(ModelError, match=f"^--to vllm: .*{told}.*vlora fuse"):
        check_vllm(made, {"architectures": [kind]})


def test_a_base_that_names_no_architecture_is_refused() -> None:
    """That name is the only one by which vLLM finds its class."""
    with pytest.raises(ModelError, match=r"has no architectures, by which vLLM finds its class; .* --base"):
        check_vllm(adapter(), {"model_type": "qwen3_vl"})


def test_the_thinker_of_qwen3_omni_is_named_as_it_was_published() -> None:
    """It passes over the names that transformers has for that part of the model."""
    modules = ["model.language_model.layers.0.self_attn.q_proj", "model.visual.blocks.0.attn.qkv", "lm_head"]
    stacks = ["model.language_model.layers.0.mlp.experts.down_proj"]
    made = adapter(target_modules=modules, target_parameters=stacks, rank_pattern={re.escape(modules[1]): 6})
    made = attrs.evolve(made, arrays={f"base_model.model.{name}.lora_A.weight": np.zeros(1) for name in modules})
    kind = {"architectures": ["Qwen3OmniMoeForConditionalGeneration"], "model_type": "qwen3_omni_moe"}
    found = to_vllm(made, kind)
    named = ["thinker.model.layers.0.self_attn.q_proj", "thinker.visual.blocks.0.attn.qkv", "thinker.lm_head"]
    assert found.config["target_modules"] == named
    assert found.config["target_parameters"] == ["thinker.model.layers.0.mlp.experts.down_proj"]
    assert list(found.arrays) == [f"base_model.model.{name}.lora_A.weight" for name in named]
    assert re.fullmatch(next(iter(found.config["rank_pattern"])), named[1])


def test_the_command_names_what_it_needs() -> None:
    """The rank is one that vLLM knows, and towers need an option."""
    check_vllm(adapter(("model.visual.x",)), {"architectures": [QWEN]})
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
    found = to_vllm(
        made, {"architectures": ["LlavaForConditionalGeneration"], "vision_config": {"model_type": "clip_vision_model"}}
    )
    deeper = "model.vision_tower.vision_model.encoder.layers.0.mlp.fc1"
    assert set(found.config["target_modules"]) == {deeper, text}
    assert set(found.arrays) == {f"base_model.model.{name}.lora_A.weight" for name in (deeper, text)}
    assert found.config["rank_pattern"] == {deeper.replace(".", r"\."): 8}
    assert to_vllm(made, {"architectures": [QWEN]}) is made


def test_a_rank_is_found_for_what_vllm_takes() -> None:
    """The next one that it knows; none for DoRA, tables, added tokens, and ranks above its largest."""

    def rank(own: object = 20, **config: object) -> int | None:
        return find_vllm_rank({"fine_tune_type": "lora", "lora_parameters": {"rank": own}, **config})

    assert (rank(), rank(16), rank(512)) == (32, 16, 512)
    assert rank(513) is rank(None) is None
    refused = (
        {"fine_tune_type": "dora"},
        {"trained_tables": ["head"]},
        {"train_vision": True},
        {"added_tokens": ["<a>"]},
    )
    assert all(rank(**config) is None for config in refused)
