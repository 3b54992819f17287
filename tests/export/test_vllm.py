"""What vLLM does not take is refused before it is written, and what it takes is served by one command."""

import json
import re
import shlex
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


EXPERTS = "model.language_model.layers.0.mlp.experts"


def stacked(joined: int = 64, inputs: int = 48, outputs: int = 48, values: int = 32) -> PeftAdapter:
    """Adapters of rank 2 of four experts: what goes in to `inputs`, and what comes out."""
    shapes = {"base_layer.lora_A": (8, inputs), "base_layer.lora_B": (joined, 8)}
    shapes |= {"lora_A": (8, values), "lora_B": (outputs, 8)}
    made = adapter(target_modules=[], target_parameters=[f"{EXPERTS}.down_proj", f"{EXPERTS}.gate_up_proj"])
    arrays = {f"base_model.model.{EXPERTS}.{name}.weight": np.zeros(shape) for name, shape in shapes.items()}
    return attrs.evolve(made, arrays=arrays)


@pytest.mark.parametrize(
    ("kind", "made", "told"),
    [
        (QWEN, adapter(use_dora=True), "no DoRA"),
        (QWEN, adapter(modules_to_save=["lm_head"]), "trained whole"),
        (QWEN, adapter(rank_pattern={"x": 600}), "ranks up to 512, and the adapter has 600"),
        ("Gemma3nForConditionalGeneration", adapter(), "no adapters of Gemma3nForConditionalGeneration models"),
        ("MllamaForConditionalGeneration", adapter(), "no class for MllamaForConditionalGeneration models"),
        (
            "Glm4vForConditionalGeneration",
            adapter(target_modules=["model.visual.blocks.0.mlp.gate_proj"]),
            "does not find model.visual.blocks.0.mlp.gate_proj",
        ),
        (
            "Glm5NextForConditionalGeneration",
            adapter(target_modules=["model.language_model.layers.0.self_attn.kv_a_proj_with_mqa"]),
            "does not find model.language_model.layers.0.self_attn.kv_a_proj_with_mqa",
        ),
        (
            "Glm5NextForConditionalGeneration",
            adapter(target_modules=["model.language_model.layers.0.self_attn.forget_gate.f_b_proj"]),
            "f_b_proj",
        ),
        (
            "Gemma4UnifiedForConditionalGeneration",
            adapter(("model.embed_vision.patch_dense",), target_modules=["model.embed_vision.patch_dense"]),
            "does not find model.embed_vision.patch_dense of Gemma4Unified",
        ),
        (
            "Gemma4ForConditionalGeneration",
            adapter(target_modules=["model.vision_tower.encoder.layers.0.mlp.up_proj.linear"]),
            "does not find model.vision_tower.encoder.layers.0.mlp.up_proj.linear of Gemma4ForConditionalGeneration",
        ),
        (
            "Lfm2VlForConditionalGeneration",
            adapter(target_modules=["model.language_model.layers.0.conv.in_proj"]),
            "does not find model.language_model.layers.0.conv.in_proj of Lfm2VlForConditionalGeneration",
        ),
        (
            "PaliGemmaForConditionalGeneration",
            adapter(target_modules=["model.multi_modal_projector.linear"]),
            "does not find model.multi_modal_projector.linear of PaliGemmaForConditionalGeneration",
        ),
        (ERNIE, adapter(target_modules=["model.layers.1.mlp.experts.0.up_proj"]), f"finds no experts of {ERNIE}"),
        (MISTRAL, adapter(("model.vision_tower.x",)), f"passes over adapters of {MISTRAL} towers"),
    ],
)
def test_what_it_does_not_take_is_refused(kind: str, made: PeftAdapter, told: str) -> None:
    """One sentence, which says to fuse."""
    with pytest.raises(ModelError, match=f"^--to vllm: .*{told}.*vlora fuse"):
        check_vllm(made, {"architectures": [kind]})


@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        ("Glm4vForConditionalGeneration", "model.visual.blocks.0.attn.proj"),
        ("Glm4vForConditionalGeneration", "model.language_model.layers.0.mlp.gate_up_proj"),
        ("GlmOcrForConditionalGeneration", "model.visual.blocks.0.mlp.down_proj"),
        ("Glm5NextForConditionalGeneration", "model.language_model.layers.0.mlp.shared_experts.gate_proj"),
        ("Glm5NextForConditionalGeneration", "model.language_model.layers.0.self_attn.o_proj"),
        (QWEN, "model.visual.blocks.0.mlp.gate_proj"),
    ],
)
def test_layers_beside_those_that_it_does_not_find_are_taken(kind: str, layer: str) -> None:
    """Only those names are refused that a class joins with others and does not list."""
    check_vllm(adapter(target_modules=[layer]), {"architectures": [kind]})


def test_a_base_that_names_no_architecture_is_refused() -> None:
    """That name is the only one by which vLLM finds its class."""
    with pytest.raises(ModelError, match=r"has no architectures, by which vLLM finds its class; .* --base"):
        check_vllm(adapter(), {"model_type": "qwen3_vl"})


def test_the_thinker_of_qwen3_omni_is_named_as_it_was_published() -> None:
    """It passes over the names that transformers has for that part of the model."""
    modules = ["model.language_model.layers.0.self_attn.q_proj", "model.visual.blocks.0.attn.qkv", "lm_head"]
    plain = {f"base_model.model.{name}.lora_A.weight": np.zeros(1) for name in modules}
    arrays = {**plain, **stacked().arrays}
    stacks = stacked().config["target_parameters"]
    made = adapter(target_modules=modules, target_parameters=stacks, rank_pattern={re.escape(modules[1]): 6})
    made = attrs.evolve(made, arrays=arrays)
    kind = {"architectures": ["Qwen3OmniMoeForConditionalGeneration"], "model_type": "qwen3_omni_moe"}
    found = to_vllm(made, kind)
    named = ["thinker.model.layers.0.self_attn.q_proj", "thinker.visual.blocks.0.attn.qkv", "thinker.lm_head"]
    assert found.config["target_modules"] == named
    assert found.config["target_parameters"][0] == "thinker.model.layers.0.mlp.experts.down_proj"
    assert list(found.arrays)[:3] == [f"base_model.model.{name}.lora_A.weight" for name in named]
    assert "base_model.model.thinker.model.layers.0.mlp.experts.base_layer.lora_A.weight" in found.arrays
    assert re.fullmatch(next(iter(found.config["rank_pattern"])), named[1])


def test_the_command_names_what_it_needs() -> None:
    """The rank is one that vLLM knows, and towers need an option."""
    check_vllm(adapter(("model.visual.x",)), {"architectures": [QWEN]})
    (command,) = vllm_usage(
        adapter(("model.visual.x",), rank_pattern={"x": 20}), Path("out"), {"architectures": [QWEN]}
    )
    assert "--max-lora-rank 32 --enable-tower-connector-lora --lora-modules tuned=out" in command
    (plain,) = vllm_usage(adapter(), Path("out"), {"architectures": [QWEN]})
    assert "--max-lora-rank 8 --lora-modules" in plain


def test_stacks_of_experts_are_served_as_such() -> None:
    """Other classes than those of Qwen refuse them without these options (vllm/lora/model_manager.py)."""
    mixture, other = "Qwen3VLMoeForConditionalGeneration", "Gemma4ForConditionalGeneration"
    check_vllm(stacked(), {"architectures": [other]})
    (own,) = vllm_usage(stacked(), Path("out"), {"architectures": [mixture]})
    assert own.endswith("--max-lora-rank 8 --lora-modules tuned=out")
    (told,) = vllm_usage(stacked(), Path("a b"), {"architectures": [other]})
    *_, modules = shlex.split(told)
    assert json.loads(modules) == {"name": "tuned", "path": "a b", "is_3d_lora_weight": True}
    assert "--max-lora-rank 8 --enable-mixed-moe-lora-format --lora-modules" in told


def test_stacks_that_vllm_would_read_otherwise_are_refused() -> None:
    """Those of one layer of two, those that multiply from the right, as Llama 4's, and those without gates."""
    alone = attrs.evolve(
        stacked(), arrays={name: value for name, value in stacked().arrays.items() if "base_layer" not in name}
    )
    for made in (alone, stacked(joined=48, inputs=64, outputs=32, values=48), stacked(joined=32)):
        with pytest.raises(
            ModelError, match=rf"^--to vllm: .*adapters of all their layers, and {EXPERTS} .*vlora fuse"
        ):
            check_vllm(made, {"architectures": ["Llama4ForConditionalGeneration"]})


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
