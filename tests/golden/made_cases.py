"""Families whose tiny checkpoint transformers writes, as data. Read by both sides, so it needs neither MLX nor torch.

The families of `cases.CASES` are compared on rows that both programs' processors encode. These here are compared on
rows in their processor's format, as tests/families makes them: what both programs' models make of the same patches is
compared, and not how their processors cut images.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Made:
    """What sets a family apart when transformers makes its checkpoint.

    Attributes:
        settings: What its configuration has in transformers otherwise than in tests/families, by section.
        both: What both programs are given otherwise than tests/families have it.
        reads_saved: Whether mlx-vlm is given the configuration that transformers saves, where the one of tests/families
            leaves entries out that the two programs take otherwise.
        part: The part of transformers' model that reads and writes text; "" where all of it does.
        reads: Which rows of tests/families: images, text, or both.
        expands: How many features take the place of an image's one id, of which transformers is given as many;
            0 where the processor writes as many itself.
        marked: The ids that the processor marks as of an image; none for the one that stands for images alone.
        counts: Whether positions count along all axes, which the two programs deal out otherwise.
        masks: Whether transformers' model is given the masks that its own generation makes, which its forward alone
            does not make.
        spelled: Parts of names that transformers writes otherwise than they were published, and how they were.
        halves: Tables that transformers saves as two halves: their names, and the rows that the first has as published.
        unsaved: Published arrays that transformers neither reads nor saves: their names, and their shapes.
        joined: How names of layers begin whose queries, keys and values were published as one.
        single: Arrays that were published with an axis of one before.
        unread: Parts of names of arrays that transformers saves and published checkpoints, or mlx-vlm's, lack.
        kept: Parts of names of parameters that stay as transformers makes them, since no checkpoint has them.
        louder: Matrices that are so many times larger than drawn, that an image counts as much as words do.
        turned: Matrices that transformers saves with outputs before inputs and that were published the other way round.
        timm_blocks: The blocks of a tower of timm's that has one size only, by stage and as timm writes them.
        architecture: How published configurations name the class, if otherwise than transformers does.
        note: What the table says of it besides.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    both: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""
    reads: tuple[int, ...] = (0, 1, 2)
    reads_saved: bool = False
    expands: int = 0
    marked: tuple[int, ...] = ()
    counts: bool = False
    masks: bool = False
    spelled: Mapping[str, str] = field(default_factory=dict)
    halves: tuple[tuple[str, str, int], ...] = ()
    unsaved: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    joined: str = ""
    single: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    louder: Mapping[str, float] = field(default_factory=dict)
    turned: tuple[str, ...] = ()
    timm_blocks: tuple[tuple[str, ...], ...] = ()
    architecture: str = ""
    note: str = ""


IMAGE_TOKEN = 120
"""What stands for images in all of them."""

STANDS_ALONE = -200
"""What stands for a whole image where features take its place."""

MADE: Mapping[str, Made] = {
    "glm4v_moe": Made(),
    "glm_ocr": Made(),
    "muse_glimmer": Made(reads_saved=True),
    "qwen3_5_moe": Made(),
    "cohere_compass": Made(
        settings={"tie_word_embeddings": True, "text_config": {"rope_parameters": {"full_attention": None}}},
        note="with rms_norm_eps in config.json mlx-vlm's last norm is an RMS norm (cohere_compass/language.py:351), "
        "transformers' never; the compared one has "
        "none",
    ),
    "minimax_m3_vl": Made(
        settings={"text_config": {"partial_rotary_factor": 0.5}},
        note="each head of the index chooses blocks for its own group, which vlora corrects in mlx-vlm",
    ),
    "qwen4_exp": Made(
        settings={"text_config": {"indexer_kv_heads": 1, "output_gate_type": "sigmoid"}},
        note="blocks that no head of the index scores above zero tie, and both programs take others of such; with "
        "eight heads none does here",
    ),
    "minicpmv4_6": Made(settings={"image_token_id": IMAGE_TOKEN}),
    "minicpmv4_7": Made(),
    "paddleocr_vl": Made(
        settings={
            "tie_word_embeddings": False,
            "text_config": {
                "model_type": "paddleocr_vl_text",
                "tie_word_embeddings": False,
                "vocab_size": 128,
                "hidden_size": 64,
                "intermediate_size": 96,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "rms_norm_eps": 1e-6,
                "use_bias": False,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
            },
        },
    ),
    "hunyuan_vl": Made(
        settings={"text_config": {"rope_scaling": {"factor": 1.0}}},
        both={"vision_config": {"max_image_size": 16}},
        reads=(0, 2),
        counts=True,
        note="with an image as large as the tower's table of positions, beside positions that count along all axes: "
        "for other sizes transformers stretches the table otherwise than the published model, which adds a tenth of a "
        "patch as mlx-vlm does (modeling_hunyuan_vl.py:214; mlx-vlm: hunyuan_vl/vision.py:167), keeps a row's images "
        "apart in the tower (:395), and deals out the axes otherwise (:165; mlx-vlm: language.py:81)",
    ),
    "granite4_vision": Made(
        settings={
            "vision_feature_select_strategy": "full",
            "text_config": {"model_type": "granite4_vision_text", "shared_intermediate_size": None},
        },
        reads_saved=True,
        note="with dense layers, as transformers has them, and not with those of a hybrid Granite",
    ),
    "llama4": Made(
        settings={"text_config": {"attn_temperature_tuning": True}}, both={"text_config": {"rms_norm_eps": 1e-5}}
    ),
    "gemma4_unified": Made(
        settings={"text_config": {"attention_k_eq_v": True}},
        masks=True,
        note="transformers is given the masks that its generation makes, by which images see themselves in sliding "
        "layers and within the window (modeling_gemma4_unified.py:1457); by those of its forward alone they do in all "
        "layers and beyond the window (:1184)",
    ),
    "glm5_next": Made(
        settings={"text_config": {"pad_token_id": None}},
        both={"text_config": {"indexer_types": ["full"] * 4, "index_n_heads": 8}},
        note="with an indexer in each layer; blocks that no head of the index scores above zero tie, and both programs "
        "take others of such; with eight heads none does here",
    ),
    "kimi_k25": Made(
        architecture="KimiK25ForConditionalGeneration",
        settings={
            "tie_word_embeddings": False,
            "image_token_id": IMAGE_TOKEN,
            "projection_hidden_size": 32,
            "text_config": {"tie_word_embeddings": False, "routed_scaling_factor": 1.0},
            "vision_config": {
                "model_type": "kimi_k25_vision",
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "pos_emb_height": 4,
                "pos_emb_width": 4,
            },
        },
        spelled={
            "language_model.model.blocks.": "language_model.model.layers.",
            "model.mm_projector.": "mm_projector.",
            "vision_tower.encoder.patch_embed.": "vision_tower.patch_embed.",
        },
        note="transformers saves a few names otherwise than they were published: the language model's layers as blocks",
    ),
    "step3p7": Made(
        both={"text_config": {"attention_other_setting": {"num_attention_heads": 6, "num_attention_groups": 2}}},
        note="with as many heads of keys in all layers, as transformers has them",
    ),
    "molmo2": Made(
        settings={
            "text_config": {"model_type": "molmo2_text"},
            "vision_config": {
                "model_type": "molmo2_vision",
                "hidden_size": 32,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "intermediate_size": 48,
                "num_hidden_layers": 3,
                "image_size": [24, 24],
                "patch_size": 4,
                "num_position_embeddings": 36,
            },
            "adapter_config": {
                "model_type": "molmo2_adapter",
                "hidden_size": 32,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "intermediate_size": 48,
                "text_hidden_size": 64,
                "vision_feature_layer": [-2, -3],
            },
        },
        marked=(120, 121, 122, 123, 124, 125, 126, 127),
        halves=(("model.transformer.wte.embedding", "model.transformer.wte.new_embedding", 112),),
        note="transformers saves the tables of words and of added ones as two halves of one; they are given their "
        "published sizes; these tables are no embedding layer, and vlora does not train them",
    ),
    "unlimited_ocr": Made(
        architecture="UnlimitedOCRForCausalLM",
        settings={
            "image_token_id": IMAGE_TOKEN,
            "vision_config": {
                "model_type": "unlimited_ocr_vision",
                "sam_config": {
                    "hidden_size": 32,
                    "output_channels": 16,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "image_size": 64,
                    "patch_size": 4,
                    "window_size": 6,
                    "global_attn_indexes": [1],
                    "mlp_dim": 128,
                    "downsample_channels": [24, 32],
                },
                "encoder_config": {
                    "hidden_size": 32,
                    "intermediate_size": 48,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                },
            },
        },
        unsaved={"model.vision_model.embeddings.patch_embedding.weight": (32, 3, 14, 14)},
        both={"language_config": {"sliding_window": 64, "sliding_window_size": 64}},
        note="answers are shorter than the window: transformers takes a row that is read at once for a prompt; PEFT "
        "renames the names of its own files once more (peft/utils/transformers_weight_conversion.py:597, by "
        "transformers/conversion_mapping.py:1961) and finds no layer, so that vlora spells them otherwise",
    ),
    "gemma3n": Made(
        both={"audio_config": {"input_feat_size": 128}},
        unsaved={
            f"model.language_model.layers.{layer}.self_attn.{part}.weight": shape
            for layer in (4, 5)
            for part, shape in (("k_proj", (32, 64)), ("v_proj", (32, 64)), ("k_norm", (16,)))
        },
        timm_blocks=(
            ("er_r1_k3_s2_e4_c8",),
            ("uir_r1_a3_k5_s2_e2_c16", "uir_r1_a3_k0_s1_e4_c16"),
            ("uir_r1_a5_k5_s2_e2_c24", "mqa_r1_k3_h2_v2_s1_d8_c24", "uir_r1_a0_k0_s1_e2_c24"),
            ("uir_r1_a5_k5_s2_e2_c32", "mqa_r1_k3_h2_s1_d8_c32", "uir_r1_a0_k0_s1_e2_c32"),
        ),
        note="its tower has one size in timm and in mlx-vlm, of 294 million parameters; both are given the same blocks "
        "with few channels; keys and values of the last two layers, which nothing reads, are left out, as transformers "
        "has none",
    ),
    "ernie4_5_moe_vl": Made(
        settings={
            "model_type": "ernie4_5_vl_moe",
            "text_config": {
                "model_type": "ernie4_5_vl_moe_text",
                "hidden_size": 64,
                "intermediate_size": 96,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "vocab_size": 128,
                "rms_norm_eps": 1e-6,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [3, 3, 2]},
                "moe_num_experts": 4,
                "moe_intermediate_size": [64, 32],
                "moe_k": 2,
                "moe_num_shared_experts": 1,
                "mlp_layer_types": ["dense", "sparse", "dense"],
            },
            "vision_config": {"model_type": "ernie4_5_vl_moe_vision", "intermediate_size": 64},
        },
        spelled={"model.vision_model.": "vision_model."},
    ),
    "deepseekocr_2": Made(
        architecture="DeepseekOCR2ForCausalLM",
        settings={
            "model_type": "deepseek_ocr2",
            "image_token_id": IMAGE_TOKEN,
            "text_config": {
                "model_type": "deepseek_ocr2_text",
                "vocab_size": 128,
                "hidden_size": 64,
                "intermediate_size": 96,
                "moe_intermediate_size": 32,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "n_shared_experts": 2,
                "n_routed_experts": 4,
                "num_experts_per_tok": 2,
                "mlp_layer_types": ["dense", "sparse", "sparse"],
            },
            "vision_config": {
                "model_type": "deepseek_ocr2_vision",
                "sam_config": {
                    "hidden_size": 32,
                    "output_channels": 16,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "image_size": 256,
                    "patch_size": 4,
                    "window_size": 6,
                    "global_attn_indexes": [1],
                    "mlp_dim": 128,
                    "downsample_channels": [24, 32],
                },
                "encoder_config": {
                    "hidden_size": 32,
                    "intermediate_size": 48,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "num_key_value_heads": 1,
                    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
                },
            },
        },
        note="its tower has a layer that sees whole tiles, whose relative positions are resized",
    ),
    "got": Made(
        architecture="GOTQwenForCausalLM",
        settings={
            "model_type": "got_ocr2",
            "image_token_index": IMAGE_TOKEN,
            "text_config": {
                "model_type": "qwen2",
                "vocab_size": 128,
                "hidden_size": 64,
                "intermediate_size": 96,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "rms_norm_eps": 1e-6,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
                "tie_word_embeddings": True,
            },
            "vision_config": {
                "model_type": "got_ocr2_vision",
                "hidden_size": 32,
                "output_channels": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 64,
                "mlp_dim": 128,
            },
        },
        both={"vision_config": {"out_dim": 64}},
        spelled={
            "vision_tower.neck.conv1.": "model.vision_tower_high.neck.0.",
            "vision_tower.neck.layer_norm1.": "model.vision_tower_high.neck.1.",
            "vision_tower.neck.conv2.": "model.vision_tower_high.neck.2.",
            "vision_tower.neck.layer_norm2.": "model.vision_tower_high.neck.3.",
            "vision_tower.patch_embed.projection.": "model.vision_tower_high.patch_embed.proj.",
            "vision_tower.layers.": "model.vision_tower_high.blocks.",
            "vision_tower.": "model.vision_tower_high.",
            ".layer_norm": ".norm",
            "multi_modal_projector.conv_upsampler1.": "model.vision_tower_high.net_2.",
            "multi_modal_projector.conv_upsampler2.": "model.vision_tower_high.net_3.",
            "multi_modal_projector.multimodal_projector.": "model.mm_projector_vary.",
            "language_model.model.": "model.",
        },
        note="transformers reads it in the layout that its script rewrites it to, whose names the folders have",
    ),
    "fastvlm": Made(
        architecture="LlavaQwen2ForCausalLM",
        settings={
            "model_type": "fast_vlm",
            "image_token_index": IMAGE_TOKEN,
            "text_config": {
                "model_type": "qwen2",
                "vocab_size": 128,
                "hidden_size": 64,
                "intermediate_size": 96,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "rms_norm_eps": 1e-6,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
                "tie_word_embeddings": True,
            },
            "vision_config": {
                "model_type": "timm_wrapper",
                "architecture": "fastvit_mci3",
                "hidden_size": 64,
                "model_args": {
                    "inference_mode": True,
                    "layers": [1, 1, 1, 1, 1],
                    "embed_dims": [8, 16, 16, 32, 32],
                },
            },
        },
        expands=4,
        spelled={
            "model.vision_tower.timm_model.": "model.vision_tower.vision_tower.model.",
            "model.stem.": "model.patch_embed.",
            **{f"stages.{stage}.blocks.": f"network.{place}." for stage, place in enumerate((0, 2, 4, 7, 10))},
            **{f"stages.{stage}.downsample.": f"network.{place}." for stage, place in enumerate((1, 3, 5, 8), start=1)},
            **{f"stages.{stage}.pos_emb.": f"network.{place}." for stage, place in ((3, 6), (4, 9))},
            ".proj.0.reparam_conv.": ".proj.0.lkb_reparam.",
            ".mlp.conv.": ".convffn.conv.",
            ".mlp.fc": ".convffn.fc",
            ".gamma": "",
            ".final_conv.se.fc1.": ".final_conv.se.reduce.",
            ".final_conv.se.fc2.": ".final_conv.se.expand.",
            ".final_conv.": ".conv_exp.",
            "model.multi_modal_projector.linear_1.": "model.mm_projector.0.",
            "model.multi_modal_projector.linear_2.": "model.mm_projector.2.",
            "model.language_model.": "model.",
        },
        unsaved={"model.vision_tower.vision_tower.model.head.proj": (64, 768)},
        louder={"model.vision_tower.timm_model.stem.0.reparam_conv.weight": 300.0},
        note="transformers reads it in the layout that its script rewrites it to, whose names the folders have; it "
        "gets as many ids of an image as there are features",
    ),
    "multi_modality": Made(
        architecture="MultiModalityCausalLM",
        settings={
            "model_type": "janus",
            "image_token_id": IMAGE_TOKEN,
            "tie_word_embeddings": False,
            "vision_config": {
                "model_type": "janus_vision_model",
                "mlp_ratio": 1.5,
                "projection_dim": 64,
                "num_image_tokens": 16,
            },
            "vq_config": {
                "num_embeddings": 16,
                "base_channels": 32,
                "channel_multiplier": [1, 1],
                "num_res_blocks": 1,
                "latent_channels": 32,
                "projection_dim": 64,
                "image_token_embed_dim": 64,
            },
        },
        both={"gen_vision_config": {"cls": "VQ-16"}},
        unread=("model.vqmodel.", "model.generation_"),
        unsaved={
            f"vision_model.vision_tower.attn_pool.{part}": shape
            for part, shape in {
                "latent": (1, 1, 32),
                **{f"{name}.weight": (n, 32) for name, n in (("q", 32), ("kv", 64), ("proj", 32), ("mlp.fc1", 128))},
                **{f"{name}.bias": (n,) for name, n in (("q", 32), ("kv", 64), ("proj", 32), ("mlp.fc1", 128))},
                "mlp.fc2.weight": (32, 128),
                "mlp.fc2.bias": (32,),
                "norm.weight": (32,),
                "norm.bias": (32,),
            }.items()
        },
        spelled={
            "model.vision_model.encoder.layers.": "vision_model.vision_tower.blocks.",
            "model.vision_model.embeddings.position_embedding.weight": "vision_model.vision_tower.pos_embed",
            "model.vision_model.embeddings.patch_embedding.": "vision_model.vision_tower.patch_embed.proj.",
            "model.vision_model.post_layernorm.": "vision_model.vision_tower.norm.",
            ".self_attn.projection_layer.": ".attn.proj.",
            ".self_attn.qkv.": ".attn.qkv.",
            ".layer_norm": ".norm",
            "model.aligner.fc1.": "aligner.layers.0.",
            "model.aligner.hidden_layers.0.": "aligner.layers.2.",
            "model.language_model.": "language_model.model.",
            "lm_head.": "language_model.lm_head.",
        },
        joined="model.vision_model.",
        single=("model.vision_model.embeddings.position_embedding.weight",),
        note="transformers reads it in the layout that its script rewrites it to, whose names the folders have; what "
        "makes images is left out, which mlx-vlm has not",
    ),
    "inkling": Made(
        settings={"model_type": "inkling_mm_model", "text_config": {"model_type": "inkling_text"}},
    ),
    "nemotron_h_nano_omni": Made(
        settings={
            "model_type": "nemotron_h_omni",
            "vision_hidden_size": 32,
            "text_config": {"head_dim": 16},
            "vision_config": {
                "model_type": "radio",
                "mlp_ratio": 1.5,
                "max_img_size": 32,
                "num_cls_tokens": 2,
                "num_registers": 2,
                "video_temporal_patch_size": 2,
            },
        },
        both={"vision_final_layernorm": False},
        unread=("layer_scale",),
        unsaved={f"vision_model.radio_model.input_conditioner.norm_{part}": (3, 1, 1) for part in ("mean", "std")},
        kept=("layer_scale",),
        note="without the tower's last norm, which models have that predict several tokens; transformers bounds steps "
        "of time by time_step_min (modeling_nemotron_h.py:414) and mlx-vlm by time_step_limit, as published, and none "
        "here is as short",
    ),
    "florence2": Made(
        settings={
            "text_config": {"model_type": "bart"},
            "vision_config": {
                "model_type": "florence_vision",
                "embed_dim": [16, 16, 32, 32],
                "projection_dim": 64,
                "max_temporal_embeddings": 4,
                "max_position_embeddings": 8,
            },
        },
        both={
            "image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
            "vision_config": {"patch_prenorm": [False, True, True, True]},
        },
        spelled={
            "model.vision_tower.": "vision_tower.",
            ".conv.": ".proj.",
            ".conv1.": ".conv1.fn.dw.",
            ".conv2.": ".conv2.fn.dw.",
            "spatial_block.norm1.": "spatial_block.window_attn.norm.",
            "channel_block.norm1.": "channel_block.channel_attn.norm.",
            ".norm2.": ".ffn.norm.",
            "_attn.qkv.": "_attn.fn.qkv.",
            "_attn.proj.": "_attn.fn.proj.",
            ".ffn.fc": ".ffn.fn.net.fc",
            "model.multi_modal_projector.image_projection.weight": "image_projection",
            "model.multi_modal_projector.image_position_embed.": "image_pos_embed.",
            "model.multi_modal_projector.": "",
            "model.language_model.": "language_model.model.",
        },
        turned=("model.multi_modal_projector.image_projection.weight",),
        note="transformers reads it in the layout that its script rewrites it to, whose names the folders have",
    ),
    "qwen3_omni_moe": Made(
        architecture="Qwen3OmniMoeForConditionalGeneration",
        settings={"talker_config": {"spatial_merge_size": 2}},
        part="thinker",
        note="in transformers its thinker, which reads images and writes text, is trained by itself",
    ),
}


def join(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Overwrite entries of a nested configuration."""
    joined = dict(one)
    for key, value in other.items():
        own = joined.get(key)
        joined[key] = join(own, value) if isinstance(own, Mapping) and isinstance(value, Mapping) else value
    return joined
