"""Mixtures that attend sparsely or in bands, or mix in states: Inkling, MiniMax-M3, Nemotron-H Omni, DeepSeek-V4."""

from collections.abc import Mapping
from math import ceil
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx_vlm.models.deepseek_v4.processing_deepseek_v4 import build_image_block

from .grids import grid_rows
from .tiny import Inputs, Row, TinyFamily, noise, words

_IMAGE, _START, _END = 120, 121, 122
_VOCABULARY = 128
_RATIO = 2  # patches of DeepSeek-V4's tower to one feature, along one side


def _inkling(generator: np.random.Generator) -> list[Row]:
    """Stills: each patch stands twice, for two moments."""

    def row(n_patches: list[int], n_words: int, n_answer: int) -> Row:
        tokens, inputs = words(generator, 2), Inputs()
        for count in n_patches:
            tokens += [_START, *([_IMAGE] * count), *words(generator, 2)]
        if n_patches:
            still = noise(generator, sum(n_patches), 1, 4, 4, 3)
            inputs = {"pixel_values": np.repeat(still, 2, axis=1)}
        tokens += words(generator, n_words)
        return Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=frozenset([_IMAGE]))

    return [row([6], 9, 4), row([2, 4], 12, 6), row([], 15, 5)]


def _minimax_m3_vl(generator: np.random.Generator) -> list[Row]:
    return grid_rows(generator, before=(_START,), image=_IMAGE, after=(_END,), patch_dim=3 * 2 * 4 * 4)


def _nemotron(generator: np.random.Generator) -> list[Row]:
    """Images of one size as one array, of several as a list."""

    def row(sizes: list[tuple[int, int]], n_words: int, n_answer: int) -> Row:
        tokens, inputs = words(generator, 2), Inputs()
        counts = [height * width // 4**2 // 4 for height, width in sizes]
        for count in counts:
            tokens += [_START, *([_IMAGE] * count), _END, *words(generator, 2)]
        if sizes:
            images = [noise(generator, 3, *size) for size in sizes]
            inputs = {
                "pixel_values": images if len(set(sizes)) > 1 else np.stack(images),
                "num_patches": [1] * len(sizes),
                "num_tokens": counts,
                "imgs_sizes": sizes,
            }
        tokens += words(generator, n_words)
        return Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=frozenset([_IMAGE]))

    return [row([(16, 16)], 9, 4), row([(16, 24), (8, 16)], 12, 6), row([], 15, 5)]


def _deepseek_v4(generator: np.random.Generator) -> list[Row]:
    """Blocks of ids beyond the vocabulary, laid out by the processor's own function.

    The last row is long enough for the layers that pool 128 tokens.
    """

    def row(grids: list[tuple[int, int]], n_words: int, n_answer: int) -> Row:
        tokens, inputs = words(generator, 3), Inputs()
        offsets, kinds, orders = [], [], []
        for height, width in grids:
            types, order = build_image_block(ceil(height / _RATIO), ceil(width / _RATIO), len(tokens))
            offsets.append(len(tokens))
            kinds.append(types)
            orders.append(order)
            tokens += [*(_VOCABULARY + types).tolist(), *words(generator, 2)]
        if grids:
            inputs = {
                "pixel_values": noise(generator, sum(height * width for height, width in grids), 3, 4, 4),
                "image_grid_hw": np.array(grids, dtype=np.int32),
                "image_sample_indices": np.zeros(len(grids), dtype=np.int32),
                "image_offsets": np.array(offsets, dtype=np.int32),
                "image_types": np.concatenate(kinds),
                "image_type_offsets": np.cumsum([0, *map(len, kinds)], dtype=np.int32),
                "image_permutations": np.concatenate(orders),
            }
        tokens += words(generator, n_words)
        special = frozenset(range(_VOCABULARY, _VOCABULARY + 5))
        return Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=special)

    return [row([(4, 4)], 9, 4), row([(3, 4), (4, 6)], 12, 6), row([], 140, 9)]


def _hash(model: nn.Module) -> None:
    """Let the layers that take experts by a token's id take several; made, all of them are the first."""
    for module in model.modules():
        table: Any = module.get("tid2eid")
        if table is not None:
            ids = mx.arange(table.shape[0])[:, None]
            module.tid2eid = ((ids + mx.arange(table.shape[1])) % module.num_experts).astype(mx.int32)


FAMILIES: Mapping[str, TinyFamily] = {
    "inkling": TinyFamily(
        config={
            "model_type": "inkling",
            "image_token_id": _IMAGE,
            "audio_token_id": 123,
            "vocab_size": _VOCABULARY,
            "text_config": {
                "model_type": "inkling",
                "hidden_size": 64,
                "num_hidden_layers": 3,
                "vocab_size": _VOCABULARY,
                "unpadded_vocab_size": 126,
                "logits_mup_width_multiplier": 2.0,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "swa_num_attention_heads": 4,
                "swa_num_key_value_heads": 4,
                "swa_head_dim": 16,
                "sliding_window_size": 8,
                "layer_types": ["hybrid_sliding", "hybrid_sliding", "hybrid"],
                "d_rel": 4,
                "rel_extent": 16,
                "log_scaling_n_floor": 4,
                "dense_mlp_idx": 1,
                "intermediate_size": 32,
                "dense_intermediate_size": 96,
                "n_routed_experts": 4,
                "num_experts_per_tok": 2,
                "n_shared_experts": 2,
            },
            "vision_config": {"patch_size": 4, "n_layers": 2},
            "audio_config": {"n_mel_bins": 4, "mel_vocab_size": 4},
        },
        rows=_inkling,
    ),
    "minimax_m3_vl": TinyFamily(
        config={
            "model_type": "minimax_m3_vl",
            "image_token_index": _IMAGE,
            "video_token_index": 123,
            "projector_hidden_size": 64,
            "text_config": {
                "model_type": "minimax_m3",
                "hidden_size": 64,
                "intermediate_size": 32,
                "dense_intermediate_size": 96,
                "shared_intermediate_size": 32,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "num_hidden_layers": 3,
                "vocab_size": _VOCABULARY,
                "num_local_experts": 4,
                "num_experts_per_tok": 2,
                "layer_types": ["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"],
                "mlp_layer_types": ["dense", "sparse", "sparse"],
                "index_n_heads": 2,
                "index_head_dim": 16,
                "index_block_size": 4,
                "index_topk_blocks": 2,
                "index_local_blocks": 1,
            },
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_attention_heads": 2,
                "num_hidden_layers": 2,
                "image_size": 32,
                "patch_size": 4,
                "projection_dim": 64,
            },
        },
        rows=_minimax_m3_vl,
    ),
    "nemotron_h_nano_omni": TinyFamily(
        config={
            "model_type": "nemotron_h_nano_omni",
            "img_context_token_id": _IMAGE,
            "ps_version": "v2",
            "vit_hidden_size": 32,
            "projector_hidden_size": 48,
            "vision_final_layernorm": True,
            "text_config": {
                "model_type": "nemotron_h",
                "vocab_size": _VOCABULARY,
                "hidden_size": 64,
                "intermediate_size": 96,
                "max_position_embeddings": 512,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "attention_bias": False,
                "mamba_num_heads": 4,
                "mamba_head_dim": 16,
                "mamba_proj_bias": False,
                "ssm_state_size": 16,
                "conv_kernel": 4,
                "n_groups": 2,
                "mlp_bias": False,
                "layer_norm_epsilon": 1e-5,
                "use_bias": False,
                "use_conv_bias": True,
                "hybrid_override_pattern": ["M", "E", "*", "-"],
                "moe_intermediate_size": 32,
                "moe_shared_expert_intermediate_size": 48,
                "n_group": 1,
                "n_routed_experts": 4,
                "n_shared_experts": 1,
                "topk_group": 1,
                "num_experts_per_tok": 2,
                "norm_topk_prob": True,
                "routed_scaling_factor": 2.5,
            },
            "vision_config": {
                "args": {"cpe_max_size": 32, "teachers": [{"name": "one"}, {"name": "two"}], "register_multiple": 4},
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 48,
                "image_size": 16,
                "patch_size": 4,
            },
        },
        rows=_nemotron,
        idle={
            r"input_conditioner\.": "the processor normalizes images",
            r"video_embedder\.": "the rows have no videos",
        },
    ),
    "deepseek_v4": TinyFamily(
        config={
            "model_type": "deepseek_v4",
            "vocab_size": _VOCABULARY,
            "hidden_size": 64,
            "intermediate_size": 96,
            "moe_intermediate_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "q_lora_rank": 32,
            "qk_rope_head_dim": 16,
            "head_dim": 32,
            "compress_ratios": [0, 4, 128, 4],
            "hc_mult": 2,
            "hc_sinkhorn_iters": 4,
            "num_hash_layers": 1,
            "sliding_window": 8,
            "o_groups": 2,
            "o_lora_rank": 32,
            "index_n_heads": 2,
            "index_head_dim": 32,
            "index_topk": 4,
            "vision_n_layers": 2,
            "vision_dim": 32,
            "vision_n_heads": 2,
            "vision_inter_dim": 48,
            "vision_patch_size": 4,
            "vision_downsample_ratio": _RATIO,
            "vision_max_n_token": 64,
        },
        rows=_deepseek_v4,
        prepare=_hash,
    ),
}
