"""Published names become those of transformers, by transformers' own rules."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_vlm.utils import get_model_type

from vlora.models.published.tracing import trace
from vlora.models.published.transformers_names import TransformersNames, find_transformers_names


def names_of(model_type: str, tower: str | None = None) -> TransformersNames:
    found = find_transformers_names({"model_type": model_type, "vision_config": {"model_type": tower} if tower else {}})
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("model_type", "published", "expected"),
    [
        ("qwen2_vl", "visual.blocks.0.attn.qkv.weight", "model.visual.blocks.0.attn.qkv.weight"),
        ("qwen2_vl", "model.layers.3.mlp.up_proj.weight", "model.language_model.layers.3.mlp.up_proj.weight"),
        ("llava", "language_model.model.embed_tokens.weight", "model.language_model.embed_tokens.weight"),
        ("llava", "language_model.lm_head.weight", "lm_head.weight"),
        ("qwen3_vl", "lm_head.weight", "lm_head.weight"),
        ("idefics3", "model.text_model.norm.weight", "model.text_model.norm.weight"),
        (
            "florence2",
            "vision_tower.blocks.1.0.channel_block.channel_attn.fn.qkv.weight",
            "model.vision_tower.blocks.1.0.channel_block.channel_attn.qkv.weight",
        ),
        (
            "deepseekocr_2",
            "model.qwen2_model.model.model.layers.0.self_attn.q_proj.weight",
            "model.vision_tower.vision_encoder.layers.0.self_attn.q_proj.weight",
        ),
        ("fastvlm", "model.layers.0.mlp.up_proj.weight", "model.language_model.layers.0.mlp.up_proj.weight"),
        (
            "fastvlm",
            "model.vision_tower.vision_tower.model.network.10.1.token_mixer.qkv.weight",
            "model.vision_tower.timm_model.stages.4.blocks.1.token_mixer.qkv.weight",
        ),
        (
            "fastvlm",
            "model.vision_tower.vision_tower.model.network.1.proj.0.lkb_reparam.weight",
            "model.vision_tower.timm_model.stages.1.downsample.proj.0.reparam_conv.weight",
        ),
        (
            "fastvlm",
            "model.vision_tower.vision_tower.model.network.7.0.layer_scale_1",
            "model.vision_tower.timm_model.stages.3.blocks.0.layer_scale_1.gamma",
        ),
        ("fastvlm", "model.mm_projector.2.weight", "model.multi_modal_projector.linear_2.weight"),
        (
            "multi_modality",
            "vision_model.vision_tower.blocks.1.attn.proj.weight",
            "model.vision_model.encoder.layers.1.self_attn.projection_layer.weight",
        ),
        ("multi_modality", "aligner.layers.2.weight", "model.aligner.hidden_layers.0.weight"),
        (
            "multi_modality",
            "language_model.model.layers.0.mlp.up_proj.weight",
            "model.language_model.layers.0.mlp.up_proj.weight",
        ),
        ("multi_modality", "language_model.lm_head.weight", "lm_head.weight"),
        ("inkling", "model.llm.layers.0.attn.wq_du.weight", "model.language_model.layers.0.self_attn.q_proj.weight"),
        ("inkling", "model.visual.layers.linear_1.weight", "model.vision_tower.encoder_layers.1.projection.weight"),
        (
            "nemotron_h_nano_omni",
            "language_model.backbone.layers.0.mixer.in_proj.weight",
            "language_model.model.layers.0.mixer.in_proj.weight",
        ),
        ("nemotron_h_nano_omni", "mlp1.3.weight", "multi_modal_projector.linear_2.weight"),
        (
            "nemotron_h_nano_omni",
            "vision_model.radio_model.model.blocks.1.attn.proj.weight",
            "vision_model.encoder.layer.1.attention.o_proj.weight",
        ),
        ("got", "model.layers.0.mlp.up_proj.weight", "model.language_model.layers.0.mlp.up_proj.weight"),
        (
            "got",
            "model.vision_tower_high.blocks.1.attn.qkv.weight",
            "model.vision_tower.layers.1.attn.qkv.weight",
        ),
        ("got", "model.vision_tower_high.neck.2.weight", "model.vision_tower.neck.conv2.weight"),
        ("got", "model.vision_tower_high.net_3.weight", "model.multi_modal_projector.conv_upsampler2.weight"),
        ("got", "model.mm_projector_vary.weight", "model.multi_modal_projector.multimodal_projector.weight"),
        ("florence2", "vision_tower.convs.2.proj.weight", "model.vision_tower.convs.2.conv.weight"),
        (
            "florence2",
            "vision_tower.blocks.1.0.spatial_block.ffn.fn.net.fc1.weight",
            "model.vision_tower.blocks.1.0.spatial_block.ffn.fc1.weight",
        ),
        (
            "florence2",
            "language_model.model.decoder.layers.0.fc1.weight",
            "model.language_model.decoder.layers.0.fc1.weight",
        ),
    ],
)
def test_names_are_renamed(model_type: str, published: str, expected: str) -> None:
    """Published by whatever version of transformers, a weight gets the name of version 5."""
    assert names_of(model_type).rename(published) == expected


@pytest.mark.parametrize(
    "spelling",
    ["lfm2-vl", "granite4-vision", "unlimited-ocr", "GOT", "llava_qwen2", "NemotronH_Nano_Omni_Reasoning_V3"],
)
def test_published_spellings_of_a_family_are_known_by_its_name(spelling: str) -> None:
    """Where transformers has no architecture of a configuration's model_type, mlx-vlm's name of the family counts."""
    config = {"model_type": spelling}
    assert find_transformers_names(config) is None
    assert find_transformers_names(config, get_model_type(config)) is not None
    assert find_transformers_names({"model_type": "qwen2_vl"}, "molmo") is not None


def test_other_towers_have_other_rules() -> None:
    """LLaVA's published CLIP tower loses a part of its name, Pixtral's never had it."""
    assert names_of("llava").knows("model.vision_tower.encoder.layers.0.mlp.fc1.weight")
    assert names_of("llava", "pixtral").knows("model.vision_tower.transformer.layers.0.attention.q_proj.weight")
    assert names_of("pixtral").knows("model.vision_tower.transformer.layers.0.attention.q_proj.weight")


def test_attention_that_was_published_as_one_is_divided() -> None:
    """Queries, keys and values have the rows of their heads; of another number of rows nothing is known."""
    name, module = "model.transformer.blocks.0.self_attn.att_proj.weight", "model.language_model.layers.0.self_attn"
    for n_keys in (4, 1):
        text = {"hidden_size": 8, "num_attention_heads": 4, "head_dim": 2, "num_key_value_heads": n_keys}
        names = find_transformers_names({"model_type": "molmo2", "text_config": text})
        assert names is not None
        rows = mx.arange(8 + 4 * n_keys)[:, None] + mx.zeros((8 + 4 * n_keys, 8))
        made = {key: np.array(value)[:, 0].tolist() for key, value in names.convert({name: rows}).items()}
        assert made == {
            f"{module}.q_proj.weight": [*range(8)],
            f"{module}.k_proj.weight": [*range(8, 8 + 2 * n_keys)],
            f"{module}.v_proj.weight": [*range(8 + 2 * n_keys, 8 + 4 * n_keys)],
        }
        assert names.convert({name: rows[1:]}) == {}


def test_attention_of_janus_is_divided() -> None:
    """Its tower was published with one layer for queries, keys and values, which a script divides."""
    made = names_of("multi_modality").convert(
        {"vision_model.vision_tower.blocks.0.attn.qkv.weight": mx.arange(6)[:, None] + mx.zeros((6, 2))}
    )
    begin = "model.vision_model.encoder.layers.0.self_attn"
    found = {name: value[:, 0].tolist() for name, value in made.items()}
    assert found == {f"{begin}.{part}_proj.weight": [2 * place, 2 * place + 1] for place, part in enumerate("qkv")}


def test_janus_and_deepseek_vl_are_told_apart() -> None:
    """Both are published as multi_modality, and only Janus makes images."""
    config = {"model_type": "multi_modality", "vision_config": {}}
    assert find_transformers_names(config, "multi_modality") is None
    assert find_transformers_names({**config, "gen_vision_config": {}}, "multi_modality") is not None


def test_rows_of_gates_and_ups_by_turns_are_put_apart() -> None:
    """Inkling publishes both in one array, a row of each by turns; of shared experts they become two."""
    layer = "layers.1.mlp"
    rows = mx.arange(6)[None, :, None] + mx.zeros((2, 6, 3))
    made = names_of("inkling").convert(
        {
            f"model.llm.{layer}.experts.w13_weight": rows,
            f"model.llm.{layer}.shared_experts.shared_w13_weight": rows,
            f"model.llm.{layer}.w13_dn.weight": rows[0],
        }
    )
    found = {name.removeprefix(f"model.language_model.{layer}."): value for name, value in made.items()}
    assert found["experts.gate_up_proj"][1, :, 0].tolist() == [0, 2, 4, 1, 3, 5]
    assert found["shared_experts.gate_proj"][1, :, 0].tolist() == [0, 2, 4]
    assert found["shared_experts.up_proj"][1, :, 0].tolist() == [1, 3, 5]
    assert found["gate_proj.weight"][:, 0].tolist() == [0, 2, 4]


def test_experts_for_text_and_for_images_are_joined_apart() -> None:
    """ERNIE publishes both kinds in one list, of which the first half reads text."""
    experts = {
        f"model.layers.1.mlp.experts.{number}.{part}_proj.weight": mx.full((3, 2), 10 * number + place)
        for number in range(4)
        for place, part in enumerate(("gate", "up"))
    }
    found = names_of("ernie4_5_moe_vl").convert(experts)
    layer = "model.language_model.layers.1.mlp"
    assert set(found) == {f"{layer}.{kind}_moe.experts.gate_up_proj" for kind in ("text", "vision")}
    for kind, numbers in (("text", (0, 1)), ("vision", (2, 3))):
        stack = found[f"{layer}.{kind}_moe.experts.gate_up_proj"]
        assert stack.shape == (2, 6, 2)
        assert stack[:, ::3, 0].tolist() == [[10 * number, 10 * number + 1] for number in numbers]


def test_names_that_peft_renames_again_are_spelled_otherwise() -> None:
    """Where a rule acts on what it has made, PEFT is given the name that the rule makes of the right one."""
    names = names_of("unlimited_ocr")
    layer, tower = "language_model.layers.0.mlp.up_proj.weight", "vision_tower.vision_encoder.encoder.layers.0.mlp.fc1"
    assert names.spell_for_peft(f"model.{layer}") == "model.layers.0.mlp.up_proj.weight"
    assert names.rename("model.layers.0.mlp.up_proj.weight") == f"model.{layer}"
    assert names.spell_for_peft(f"model.{tower}.weight") == f"model.{tower}.weight"
    assert names_of("qwen2_vl").spell_for_peft(f"model.{layer}") == f"model.{layer}"


def test_experts_are_joined() -> None:
    """Experts that were published one by one are stacked, gate and up behind each other."""
    parts = {
        f"model.language_model.layers.1.mlp.experts.{expert}.{kind}_proj.weight": mx.full((3, 2), 10.0 * expert + place)
        for expert in range(12)
        for place, kind in enumerate(("gate", "up", "down"))
    }
    made = names_of("glm4v_moe").convert(parts)
    assert set(made) == {f"model.language_model.layers.1.mlp.experts.{part}_proj" for part in ("gate_up", "down")}
    joined = np.array(made["model.language_model.layers.1.mlp.experts.gate_up_proj"])
    assert joined.shape == (12, 6, 2)
    np.testing.assert_array_equal(joined[11, :, 0], [110, 110, 110, 111, 111, 111])


@pytest.mark.parametrize(
    ("model_type", "section", "published", "expected"),
    [
        ("kimi_k25", {"num_heads": 2}, "vision_tower.encoder.blocks.0.wqkv", "model.vision_tower.layers.0.attn"),
        (
            "step3p7",
            {"heads": 2},
            "vision_model.transformer.resblocks.0.attn.in_proj_weight",
            "model.vision_model.layers.0.self_attn",
        ),
    ],
)
def test_rows_of_rotated_heads_lie_in_another_order(
    model_type: str, section: dict[str, int], published: str, expected: str
) -> None:
    """Of each head's queries and keys the even rows come before the odd ones; values stay, and all can be traced."""
    names = find_transformers_names({"model_type": model_type, "vision_config": section})
    assert names is not None
    name = published if published.endswith("_weight") else f"{published}.weight"
    rows = mx.arange(24, dtype=mx.float32)[:, None] + mx.zeros((24, 3))
    made = {key: np.array(value)[:, 0].tolist() for key, value in names.convert({name: rows}).items()}
    order = [0, 2, 1, 3, 4, 6, 5, 7]
    assert made == {
        f"{expected}.q_proj.weight": order,
        f"{expected}.k_proj.weight": [8 + row for row in order],
        f"{expected}.v_proj.weight": [16 + row for row in range(8)],
    }
    pieces = trace(names.convert, {name: (24, 3)})[f"{expected}.k_proj.weight"]
    read = np.zeros(8)
    for piece in pieces:
        read[piece.target[0]] = piece.read(np.array(rows))[:, 0]
    assert read.tolist() == [8 + row for row in order]


def test_heads_that_no_configuration_counts_are_transformers_own() -> None:
    """Published configurations of Kimi K2.5 call their number otherwise, which transformers does not read either."""
    names = find_transformers_names({"model_type": "kimi_k25", "vision_config": {"vt_num_attention_heads": 2}})
    assert names is not None
    rows = mx.arange(3 * 64, dtype=mx.float32)[:, None]
    made = names.convert({"vision_tower.encoder.blocks.0.wqkv.weight": rows})
    assert np.array(made["model.vision_tower.layers.0.attn.q_proj.weight"])[:8, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_unknown_architectures_have_none() -> None:
    """What transformers opens by code of a repository keeps the names of its checkpoint."""
    assert find_transformers_names({"model_type": "molmo"}) is None
