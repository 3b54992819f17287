"""Large mixtures of experts behind towers of the Qwen-VL and Moonlight kinds: ZAYA1, Step-3.7, Kimi-K3, MiMo-V2."""

from collections.abc import Mapping

import numpy as np

from .grids import grid_rows
from .tiny import Row, TinyFamily, noise, words

_IMAGE, _START, _END = 120, 121, 122
_PATCH_START, _PATCH_END, _PATCH_NEWLINE = 123, 124, 125


def _zaya1_vl(generator: np.random.Generator) -> list[Row]:
    return grid_rows(generator, before=(_START,), image=_IMAGE, after=(_END,), patch_dim=3 * 2 * 4 * 4)


def _kimi_k3(generator: np.random.Generator) -> list[Row]:
    rows = grid_rows(
        generator,
        before=(_START, 9),
        image=_IMAGE,
        after=(_END,),
        patch_dim=3 * 4 * 4,
        lay_out=lambda pixels: pixels.reshape(-1, 3, 4, 4),
    )
    for row in rows:
        if row.inputs:
            row.inputs["grid_thws"] = row.inputs.pop("image_grid_thw")
    return rows


def _step3p7(generator: np.random.Generator) -> list[Row]:
    """Crops before the whole image, of another size; every image of a row after the other."""

    def row(n_crops: list[int], n_words: int, n_answer: int) -> Row:
        tokens, inputs = words(generator, 3), dict[str, object]()
        for count in n_crops:
            for crop in range(count):
                tokens += [_PATCH_START, *([_IMAGE] * 4), _PATCH_END]
                tokens += [_PATCH_NEWLINE] if crop == 0 else []
            tokens += [_START, *([_IMAGE] * 9), _END]
        if n_crops:
            inputs = {"pixel_values": noise(generator, len(n_crops), 3, 48, 48), "num_patches": n_crops}
        if sum(n_crops):
            inputs["patch_pixel_values"] = noise(generator, sum(n_crops), 3, 32, 32)
        tokens += words(generator, n_words)
        return Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=frozenset([_IMAGE]))

    return [row([0], 9, 4), row([2, 1], 12, 6), row([], 13, 5)]


_ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
_QWEN_VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "out_hidden_size": 64,
    "num_heads": 2,
    "patch_size": 4,
    "spatial_patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}

FAMILIES: Mapping[str, TinyFamily] = {
    "zaya1_vl": TinyFamily(
        config={
            "model_type": "zaya1_vl",
            "image_token_id": _IMAGE,
            "vision_start_token_id": _START,
            "vision_end_token_id": _END,
            "hidden_size": 64,
            "ffn_hidden_size": 64,
            "num_hidden_layers": 3,
            "num_experts": 4,
            "zaya_mlp_expansion": 32,
            **_ATTENTION,
            "num_query_groups": 2,
            "vocab_size": 128,
            "vision_lora_rank_attn": 4,
            "vision_lora_rank_mlp": 8,
            "vision_config": {
                **_QWEN_VISION,
                "model_type": "qwen2_5_vl",
                "window_size": 16,
                "fullatt_block_indexes": [1],
            },
        },
        rows=_zaya1_vl,
        idle={
            r"layers\.2\..*\.(lora_linear_o|lora_fc1|lora_fc2)\.": "the last layer's own update for images, "
            "whose places predict nothing",
        },
    ),
    "step3p7": TinyFamily(
        config={
            "model_type": "step3p7",
            "image_token_id": _IMAGE,
            "text_config": {
                "model_type": "step3p5",
                "hidden_size": 64,
                "intermediate_size": 96,
                "num_attention_heads": 4,
                "num_attention_groups": 2,
                "head_dim": 16,
                "num_hidden_layers": 4,
                "vocab_size": 128,
                "moe_intermediate_size": 32,
                "moe_num_experts": 4,
                "moe_top_k": 2,
                "moe_layers_enum": "2,3",
                "moe_router_activation": "sigmoid",
                "moe_router_scaling_factor": 2.0,
                "use_moe_router_bias": True,
                "share_expert_dim": 32,
                "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
                "attention_other_setting": {"num_attention_heads": 6, "num_attention_groups": 3},
                "sliding_window": 8,
                "swiglu_limits": [0.0, 0.0, 7.0, 0.0],
                "swiglu_limits_shared": [0.0, 0.0, 0.0, 16.0],
                "use_head_wise_attn_gate": True,
                "partial_rotary_factors": [0.5, 1.0, 1.0, 0.5],
                "rope_theta": [10000.0, 1000.0, 1000.0, 10000.0],
            },
            "vision_config": {
                "width": 32,
                "layers": 2,
                "heads": 2,
                "image_size": 48,
                "mlp_ratio": 1.5,
                "patch_size": 4,
            },
        },
        rows=_step3p7,
    ),
    "kimi_k3": TinyFamily(
        config={
            "model_type": "kimi_k3",
            "media_placeholder_token_id": _IMAGE,
            "vocab_size": 128,
            "text_config": {
                "model_type": "kimi_linear",
                "vocab_size": 128,
                "hidden_size": 64,
                "intermediate_size": 96,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "linear_attn_config": {
                    "kda_layers": [1, 2, 4],
                    "num_heads": 2,
                    "head_dim": 16,
                    "short_conv_kernel_size": 4,
                    "gate_lower_bound": -5.0,
                },
                "attn_res_block_size": 2,
                "q_lora_rank": 32,
                "kv_lora_rank": 32,
                "qk_nope_head_dim": 16,
                "qk_rope_head_dim": 8,
                "v_head_dim": 16,
                "mla_use_output_gate": True,
                "num_experts": 4,
                "num_experts_per_token": 2,
                "num_shared_experts": 1,
                "moe_intermediate_size": 32,
                "first_k_dense_replace": 1,
                "routed_expert_hidden_size": 32,
                "latent_moe_use_norm": True,
            },
            "vision_config": {
                "patch_size": 4,
                "init_pos_emb_height": 4,
                "init_pos_emb_width": 4,
                "vt_num_attention_heads": 2,
                "vt_num_hidden_layers": 2,
                "vt_hidden_size": 32,
                "vt_intermediate_size": 48,
                "qkv_hidden_size": 48,
                "mm_hidden_size": 32,
                "text_hidden_size": 64,
            },
        },
        rows=_kimi_k3,
        idle={
            r"layers\.0\.self_attention_res_(proj|norm)": "before the first layer there is nothing to mix",
        },
    ),
    "mimo_v2": TinyFamily(
        config={
            "model_type": "mimo_v2",
            "image_token_id": _IMAGE,
            "vision_start_token_id": _START,
            "vision_end_token_id": _END,
            "vocab_size": 128,
            "hidden_size": 64,
            "intermediate_size": 96,
            "moe_intermediate_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 24,
            "v_head_dim": 16,
            "swa_head_dim": 24,
            "swa_v_head_dim": 16,
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 2,
            "sliding_window_size": 8,
            "hybrid_layer_pattern": [0, 1, 1, 0],
            "moe_layer_freq": [0, 1, 1, 1],
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "vision_config": {
                **_QWEN_VISION,
                "depth": 4,
                "num_heads": 4,
                "num_key_value_heads": 2,
                "num_query_groups": 2,
                "qk_channels": 8,
                "visual_token_window_size": 8,
                "fullatt_block_indexes": [0, 3],
                "vit_window_attn_types": [-1, 0, 1, -1],
            },
            "audio_config": {
                "out_hidden_size": 64,
                "audio_channels": 2,
                "input_local_attn_heads": 2,
                "input_local_dim": 32,
                "input_local_intermediate_size": 48,
                "input_local_layers": 1,
                "speech_vocab_size": 16,
            },
        },
        rows=_zaya1_vl,
        loads_no_adapter="mlx-vlm cannot freeze its audio encoder, and so attaches no adapter (mimo_v2/audio.py:54)",
    ),
}
