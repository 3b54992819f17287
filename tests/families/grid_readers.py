"""Families that read a grid of patches as Qwen-VL does, with towers, positions and experts of their own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from unittest import mock

import numpy as np
from mlx import nn
from mlx_vlm.models.paddleocr_vl.vision import PaddleOCRProjector

from .grids import grid_rows
from .tiny import Inputs, Row, TinyFamily, noise, words

_IMAGE, _START, _END, _VIDEO = 120, 121, 122, 123
_PATCH = 4
_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
}
_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "depth": 2,
    "patch_size": _PATCH,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 64,
}
_MARKERS = {
    "image_token_id": _IMAGE,
    "video_token_id": _VIDEO,
    "image_start_token_id": _START,
    "image_end_token_id": _END,
    "video_start_token_id": 124,
    "video_end_token_id": 125,
    "vision_start_token_id": _START,
    "vision_end_token_id": _END,
}


def _frames_rows(generator: np.random.Generator) -> list[Row]:
    """Patches of two equal frames, as Qwen2-VL's processor writes a still image."""
    return grid_rows(generator, before=(_START,), image=_IMAGE, after=(_END,), patch_dim=3 * 2 * _PATCH**2)


def _still_rows(generator: np.random.Generator) -> list[Row]:
    """Patches of one frame."""
    return grid_rows(generator, before=(_START,), image=_IMAGE, after=(_END,), patch_dim=3 * _PATCH**2)


def _square_rows(generator: np.random.Generator) -> list[Row]:
    """Patches of one frame as small images, f[1, patches, 3, side, side]."""
    return grid_rows(
        generator,
        before=(_START,),
        image=_IMAGE,
        after=(_END,),
        patch_dim=3 * _PATCH**2,
        lay_out=lambda patches: patches.reshape(1, -1, 3, _PATCH, _PATCH),
    )


def _lined_rows(generator: np.random.Generator) -> list[Row]:
    """At most one image to a row: its lines end with a feature of their own, and one stands before and after them.

    Positions are those of the processor: along the text, the width, the height and the images.
    """

    def row(height: int, width: int, n_words: int, n_answer: int) -> Row:
        if not height:
            return Row(tokens=words(generator, 3 + n_words), n_answer=n_answer)
        tokens = [*words(generator, 2), _START]
        first, lines, columns = len(tokens) + 1, height // 2, width // 2 + 1
        tokens += [_IMAGE] * (lines * columns + 2) + [_END] + words(generator, n_words)
        positions = np.tile(np.arange(len(tokens), dtype=np.int64), (4, 1))
        inside = slice(first, first + lines * columns)
        positions[1, inside] = np.tile(np.arange(columns), lines)
        positions[2, inside] = np.repeat(np.arange(lines), columns)
        positions[3, inside] = 0
        inputs: Inputs = {
            "pixel_values": noise(generator, height * width, 3 * _PATCH**2),
            "image_grid_thw": np.array([[1, height, width]], dtype=np.int64),
            "position_ids": positions[None],
        }
        return Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=frozenset([_IMAGE]))

    return [row(4, 4, 9, 4), row(4, 6, 12, 6), row(0, 0, 15, 5)]


@contextmanager
def _narrow_projector() -> Iterator[None]:
    """Fit the projector, which mlx-vlm makes for a language model of width 1024, to this one."""
    original = PaddleOCRProjector.__init__

    def initialize(self: nn.Module, dim: int, context_dim: int, spatial_merge_size: int) -> None:
        assert context_dim == 1024
        original(self, dim, _TEXT["hidden_size"], spatial_merge_size)

    with mock.patch.object(PaddleOCRProjector, "__init__", initialize):
        yield


FAMILIES: Mapping[str, TinyFamily] = {
    "ernie4_5_moe_vl": TinyFamily(
        config={
            "model_type": "ernie4_5_moe_vl",
            **_MARKERS,
            "im_patch_id": _IMAGE,
            **_TEXT,
            "num_hidden_layers": 3,
            "pixel_hidden_size": 32,
            "rope_scaling": {"type": "default", "mrope_section": [3, 3, 2]},
            "moe_num_experts": [4, 4],
            "moe_intermediate_size": [64, 32],
            "moe_k": 2,
            "moe_num_shared_experts": 1,
            "moe_layer_start_index": [1, 1],
            "moe_layer_end_index": [1, 1],
            "tie_word_embeddings": True,
            "vision_config": {
                "model_type": "DFNRope_vision_transformer",
                "depth": 2,
                "embed_dim": 32,
                "hidden_size": 32,
                "num_heads": 2,
                "mlp_ratio": 2,
                "patch_size": _PATCH,
                "spatial_merge_size": 2,
            },
        },
        rows=_still_rows,
    ),
    "hunyuan_vl": TinyFamily(
        config={
            "model_type": "hunyuan_vl",
            **_MARKERS,
            "image_newline_token_id": 126,
            "text_config": {
                **_TEXT,
                "model_type": "hunyuan_vl",
                "attention_head_dim": 16,
                "rope_scaling": {"type": "xdrope", "alpha": 2.0, "xdrope_section": [2, 2, 2, 2]},
            },
            "vision_config": {
                "model_type": "hunyuan_vl",
                "hidden_size": 32,
                "out_hidden_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 48,
                "patch_size": _PATCH,
                "max_image_size": 32,
            },
        },
        rows=_lined_rows,
        idle={r"perceive\.image_sep$": "no feature is made of it"},
    ),
    "cohere_compass": TinyFamily(
        config={
            "model_type": "cohere_compass",
            **_MARKERS,
            "text_config": {
                **{name: value for name, value in _TEXT.items() if name != "rms_norm_eps"},
                "model_type": "cohere_compass_text",
                "num_hidden_layers": 4,
                "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
                "sliding_window": 8,
                "rope_parameters": {"sliding_attention": {"rope_theta": 10000.0, "mrope_section": [4, 2, 2]}},
                "logit_scale": 0.5,
                "tie_word_embeddings": True,
            },
            "vision_config": {
                **_TOWER,
                "model_type": "cohere_compass_vision",
                "num_position_embeddings": 36,
                "deepstack_visual_indexes": [0, 1],
            },
        },
        rows=_frames_rows,
    ),
    "dots_ocr": TinyFamily(
        config={
            "model_type": "dots_ocr",
            **_MARKERS,
            **_TEXT,
            "attention_bias": True,
            "vision_config": {
                "model_type": "dots_vit",
                "embed_dim": 32,
                "hidden_size": 64,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "patch_size": _PATCH,
            },
        },
        rows=_still_rows,
    ),
    "glm_ocr": TinyFamily(
        config={
            "model_type": "glm_ocr",
            **_MARKERS,
            "hidden_size": 64,
            "vocab_size": 128,
            "text_config": {
                **{name: value for name, value in _TEXT.items() if name != "rope_theta"},
                "model_type": "glm_ocr_text",
                "rope_parameters": {
                    "rope_type": "default",
                    "mrope_section": [2, 3, 3],
                    "partial_rotary_factor": 1.0,
                    "rope_theta": 10000.0,
                },
            },
            "vision_config": {**_TOWER, "model_type": "glm_ocr_vision", "image_size": 32},
        },
        rows=_frames_rows,
    ),
    "paddleocr_vl": TinyFamily(
        config={
            "model_type": "paddleocr_vl",
            **_MARKERS,
            **_TEXT,
            "hidden_act": "silu",
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "use_bias": False,
            "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": [2, 3, 3]},
            "vision_config": {
                "model_type": "paddleocr_vl",
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 16,
                "patch_size": _PATCH,
            },
        },
        rows=_square_rows,
        while_building=_narrow_projector,
    ),
    "glm5_next": TinyFamily(
        config={
            "model_type": "glm5_next",
            **_MARKERS,
            "text_config": {
                "model_type": "glm5_next_text",
                "vocab_size": 128,
                "hidden_size": 64,
                "intermediate_size": 96,
                "moe_intermediate_size": 32,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "n_shared_experts": 1,
                "n_routed_experts": 4,
                "num_experts_per_tok": 2,
                "routed_scaling_factor": 1.5,
                "kv_lora_rank": 32,
                "q_lora_rank": 32,
                "qk_nope_head_dim": 32,
                "v_head_dim": 16,
                "layer_types": [
                    "linear_attention",
                    "deepseek_sparse_attention",
                    "linear_attention",
                    "deepseek_sparse_attention",
                ],
                "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
                "indexer_types": ["full", "full", "full", "shared"],
                "index_topk": 8,
                "index_kpool": 4,
                "index_head_dim": 32,
                "index_n_heads": 2,
                "linear_head_dim": 32,
                "linear_num_heads": 2,
                "hc_mult": 2,
                "hc_sinkhorn_iters": 4,
            },
            "vision_config": {
                **_TOWER,
                "model_type": "glm5_next_vision",
                "image_size": 32,
                "projection_intermediate_size": 64,
            },
        },
        rows=_frames_rows,
    ),
    "indic_ocr": TinyFamily(
        config={
            "model_type": "indic_ocr",
            **_MARKERS,
            "vocab_size": 128,
            "text_config": {
                **_TEXT,
                "model_type": "qwen3_5_text",
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
            },
            "vision_config": {
                **_TOWER,
                "model_type": "qwen3_5",
                "num_position_embeddings": 36,
                "deepstack_visual_indexes": [],
            },
        },
        rows=_frames_rows,
    ),
    "glm4v_moe": TinyFamily(
        config={
            "model_type": "glm4v_moe",
            **_MARKERS,
            "text_config": {
                **_TEXT,
                "model_type": "glm4v_moe_text",
                "num_hidden_layers": 3,
                "partial_rotary_factor": 0.5,
                "rope_scaling": {"type": "default", "mrope_section": [2, 1, 1]},
                "attention_bias": True,
                "use_qk_norm": True,
                "moe_intermediate_size": 32,
                "n_routed_experts": 4,
                "n_shared_experts": 1,
                "num_experts_per_tok": 2,
                "norm_topk_prob": True,
                "routed_scaling_factor": 1.0,
                "n_group": 1,
                "topk_group": 1,
                "first_k_dense_replace": 1,
            },
            "vision_config": {**_TOWER, "model_type": "glm4v_moe_vision", "image_size": 32, "intermediate_size": 64},
        },
        rows=_frames_rows,
    ),
    "mage_vl": TinyFamily(
        config={
            "model_type": "mage_vl",
            **_MARKERS,
            "text_config": {**_TEXT, "model_type": "qwen3"},
            "vision_config": {
                "model_type": "mage_vl_vision",
                "hidden_size": 64,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "patch_size": _PATCH,
                "image_size": 32,
                "out_hidden_size": 64,
                "text_hidden_size": 64,
            },
        },
        rows=_still_rows,
    ),
    "muse_glimmer": TinyFamily(
        config={
            "model_type": "muse_glimmer",
            **_MARKERS,
            "out_hidden_size": 128,
            "projector_hidden_size": 48,
            "text_config": {
                **_TEXT,
                "model_type": "muse_glimmer_text",
                "num_hidden_layers": 4,
                "sliding_window": 8,
            },
            "vision_config": {
                "model_type": "muse_glimmer_vision",
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "patch_size": _PATCH,
                "layer_types": ["window_attention", "full_attention"],
                # Smaller than an image, so that one has several windows.
                "pos_emb_height": 4,
                "pos_emb_width": 4,
            },
        },
        rows=_frames_rows,
    ),
}
