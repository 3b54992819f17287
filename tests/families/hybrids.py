"""Qwen 3.5 and its relatives: layers of linear attention between those of full, and a Qwen-VL tower."""

from collections.abc import Mapping

import numpy as np

from .grids import grid_rows
from .tiny import Row, TinyFamily

_IMAGE, _START, _END = 120, 121, 122
_MARKERS = {
    "image_token_id": _IMAGE,
    "video_token_id": 123,
    "vision_start_token_id": _START,
    "vision_end_token_id": _END,
    "vocab_size": 128,
    "eos_token_id": 2,
}
_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 128,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 512,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 2,
    "rope_parameters": {
        "type": "default",
        "mrope_section": [2, 1, 1],
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
    },
}
_EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "norm_topk_prob": True,
}
_TOWER = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "out_hidden_size": 64,
    "num_heads": 2,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "num_position_embeddings": 36,
    "deepstack_visual_indexes": [],
}


def _rows(generator: np.random.Generator) -> list[Row]:
    return grid_rows(generator, before=(_START,), image=_IMAGE, after=(_END,), patch_dim=3 * 2 * 4 * 4)


FAMILIES: Mapping[str, TinyFamily] = {
    "qwen3_5": TinyFamily(
        config={
            "model_type": "qwen3_5",
            **_MARKERS,
            "text_config": {**_TEXT, "model_type": "qwen3_5_text"},
            "vision_config": {**_TOWER, "model_type": "qwen3_5"},
        },
        rows=_rows,
    ),
    "qwen3_5_moe": TinyFamily(
        config={
            "model_type": "qwen3_5_moe",
            **_MARKERS,
            "text_config": {**_TEXT, **_EXPERTS, "model_type": "qwen3_5_moe_text"},
            "vision_config": {**_TOWER, "model_type": "qwen3_5_moe"},
        },
        rows=_rows,
    ),
    "qwen4_exp": TinyFamily(
        config={
            "model_type": "qwen4_exp",
            **_MARKERS,
            "text_config": {
                **_TEXT,
                **_EXPERTS,
                "model_type": "qwen4_exp_text",
                "num_hidden_layers": 4,
                "eos_token_id": 2,
                "hc_count": 2,
                "hc_lowrank": 16,
                "ple_layer_ids": [1, 3],
                "ple_embed_dim": 64,
                "ngram_size": 3,
                "heads_per_ngram": 2,
                "ngram_vocab_size_base": 50,
                "make_ngram_vocab_size_divisible_by": 8,
                "split_ngram_parts": 2,
                "indexer_n_heads": 2,
                "indexer_head_dim": 16,
                "indexer_budget": 8,
                "indexer_compress_ratio": 4,
            },
            "vision_config": {**_TOWER, "model_type": "qwen4_exp"},
        },
        rows=_rows,
    ),
}
