"""Qwen 3.5 and its relatives: layers of linear attention between those of full, and a Qwen-VL tower."""

from collections.abc import Mapping

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx_vlm.models.prism_hadamard_qwen35.prism_hadamard_qwen35 import HadamardQuantizedLinear

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


_PACKED = {
    "model.embed_tokens": 0,
    "lm_head": 0,
    "model.layers.0.mlp.gate_proj": 0,
    "model.layers.0.mlp.down_proj": 512,
    "model.layers.1.self_attn.v_proj": 0,
    "model.layers.1.mlp.down_proj": 512,
}
"""Layers in two bits, and over how many of their inputs each is rotated (0: none; 512 is the least)."""


def _draw_packed(model: nn.Module) -> None:
    """Draw what is packed: random bits, scales that keep activations in range, signs that are signs."""
    generator = np.random.default_rng(0)
    for _, part in model.named_modules():
        if isinstance(part, HadamardQuantizedLinear):
            scale = np.sqrt(part.weight.shape[1] * 16)
            part.weight = mx.array(generator.integers(0, 2**32, part.weight.shape, dtype=np.uint32))
            part.scales = mx.full(part.scales.shape, 1 / scale, dtype=mx.float16)
            part.biases = mx.full(part.scales.shape, -1.5 / scale, dtype=mx.float16)
            if part.block:
                part.signs = mx.array(generator.choice([-1.0, 1.0], part.signs.shape).astype(np.float32))


FAMILIES: Mapping[str, TinyFamily] = {
    "qwen3_5_moe": TinyFamily(
        config={
            "model_type": "qwen3_5_moe",
            **_MARKERS,
            "text_config": {**_TEXT, **_EXPERTS, "model_type": "qwen3_5_moe_text"},
            "vision_config": {**_TOWER, "model_type": "qwen3_5_moe"},
        },
        rows=_rows,
    ),
    "prism_hadamard_qwen35": TinyFamily(
        config={
            "model_type": "prism_hadamard_qwen35",
            **_MARKERS,
            "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
            "modules": [
                {"path": path, "embedding": path.endswith("embed_tokens"), "dtype": "float16", "block": block}
                for path, block in _PACKED.items()
            ],
            "text_config": {
                **_TEXT,
                "model_type": "qwen3_5_text",
                "hidden_size": 128,
                "intermediate_size": 512,
                "num_hidden_layers": 2,
            },
            "vision_config": {**_TOWER, "model_type": "qwen3_5", "out_hidden_size": 128},
        },
        rows=_rows,
        prepare=_draw_packed,
        is_packed=True,
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
                # Blocks that no head scores above zero tie, and of such each program takes others.
                "indexer_n_heads": 8,
                "indexer_head_dim": 16,
                "indexer_budget": 8,
                "indexer_compress_ratio": 4,
            },
            "vision_config": {**_TOWER, "model_type": "qwen4_exp"},
        },
        rows=_rows,
    ),
}
