"""What transformers 5 writes into a config.json is said in the words of each family's classes, or refused."""

import importlib
from typing import Any

import pytest

from vlora.errors import ModelError
from vlora.models.load.config_translation import read_fields, translate_config

THETA = 17.0  # far from every default, so that another one shows


Config = dict[str, Any]


def translate(model_type: str, config: Config) -> Config:
    """Translate for a family's own classes."""
    package = importlib.import_module(f"mlx_vlm.models.{model_type}")
    return translate_config(config, model_type, read_fields(package), "a model")


def newer(**text: Any) -> Config:
    """Write the part of a config.json of transformers 5.23 that matters here."""
    return {"text_config": {"hidden_size": 64, **text}, "vision_config": {"model_type": "some_vision"}}


DEFAULT = {"rope_theta": THETA, "rope_type": "default"}


LLAMA3 = {"factor": 8.0, "rope_theta": THETA, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}


MROPE = {"mrope_section": [6, 5, 5], "rope_theta": THETA, "rope_type": "default"}


PER_TYPE = {
    "full_attention": {"factor": 8.0, "rope_theta": THETA, "rope_type": "linear"},
    "sliding_attention": {"rope_theta": 37.0, "rope_type": "default"},
}


@pytest.mark.parametrize(
    ("family", "rope", "expected"),
    [
        *(
            (family, DEFAULT, {"rope_theta": THETA})
            for family in ("llava", "idefics3", "smolvlm", "mistral3", "internvl")
        ),
        ("lfm2_vl", DEFAULT, {"rope_theta": THETA, "rope_parameters": DEFAULT}),
        ("mllama", LLAMA3, {"rope_theta": THETA, "rope_scaling": {"factor": 8.0, "type": "llama3"}}),
        ("qwen3_vl", MROPE, {"rope_theta": THETA, "rope_scaling": {"mrope_section": [6, 5, 5], "type": "default"}}),
        ("glm4v", {**MROPE, "partial_rotary_factor": 0.5}, {"rope_theta": THETA, "partial_rotary_factor": 0.5}),
        (
            "gemma3",
            PER_TYPE,
            {
                "rope_global_base_freq": THETA,
                "rope_local_base_freq": 37.0,
                "rope_scaling": {"factor": 8.0, "type": "linear"},
            },
        ),
        ("gemma3n", PER_TYPE, {"rope_theta": THETA, "rope_local_base_freq": 37.0}),
    ],
)
def test_rotary_embedding_is_spelled_as_the_family_reads_it(family: str, rope: Config, expected: Config) -> None:
    """Each family gets theta and scaling under the names that its class has."""
    text = translate(family, newer(rope_parameters=rope))["text_config"]
    for key, value in expected.items():
        found = text[key]
        assert found == value if not isinstance(value, dict) else value.items() <= found.items()


def test_other_keys_follow() -> None:
    """Experts, sliding layers, tied tables and towers keep their meaning too."""
    mixture = translate("qwen3_vl_moe", newer(rope_parameters=MROPE, num_local_experts=4, tie_word_embeddings=True))
    assert mixture["text_config"]["num_experts"] == 4
    tower = {"vision_config": {"attention_heads": 2}}
    assert translate("mllama", newer(rope_parameters=DEFAULT) | tower)["vision_config"]["num_attention_heads"] == 2
    layers = {"layer_types": ["sliding_attention", "full_attention"], "head_dim": 16, "num_key_value_heads": 2}
    gemma = translate("gemma4", newer(rope_parameters=PER_TYPE, per_layer_config={"1": {"head_dim": 32}}, **layers))
    assert gemma["text_config"]["global_head_dim"] == 32
    assert gemma["text_config"]["num_global_key_value_heads"] == 2
    tied = translate("qwen3_vl_moe", newer(rope_parameters=MROPE) | {"tie_word_embeddings": False})
    assert tied["text_config"]["tie_word_embeddings"] is False
    types = ["sliding_attention", "sliding_attention", "full_attention"] * 2
    sliding = translate("aya_vision", newer(rope_parameters=DEFAULT, layer_types=types))
    assert sliding["text_config"]["sliding_window_pattern"] == 3
    tower = translate("pixtral", newer() | {"vision_config": {"rope_parameters": {**DEFAULT, "rope_type": "axial"}}})
    assert tower["vision_config"]["rope_theta"] == THETA
    omni = translate("qwen3_omni_moe", {"thinker_config": newer(rope_parameters=MROPE)})
    assert omni["thinker_config"]["text_config"]["rope_theta"] == THETA


@pytest.mark.parametrize(
    ("family", "config", "said"),
    [
        ("llava", newer(rope_parameters=PER_TYPE), "full_attention, sliding_attention"),
        ("idefics3", newer(rope_parameters={**LLAMA3, "rope_type": "yarn"}), "yarn"),
        ("llava", newer(rope_parameters={**DEFAULT, "partial_rotary_factor": 0.5}), "0.5"),
        ("aya_vision", newer(rope_parameters=DEFAULT, layer_types=["full_attention", "sliding_attention"]), "order"),
        (
            "gemma4",
            newer(
                rope_parameters=PER_TYPE, per_layer_config={"0": {"head_dim": 32}}, layer_types=["sliding_attention"]
            ),
            "per_layer_config",
        ),
        ("qwen3_vl", newer(rope_parameters=MROPE) | {"vision_config": {"rope_parameters": DEFAULT}}, "tower"),
    ],
)
def test_what_a_family_has_no_field_for_is_refused(family: str, config: Config, said: str) -> None:
    """Nothing is dropped in silence."""
    with pytest.raises(ModelError, match=said):
        translate(family, config)
