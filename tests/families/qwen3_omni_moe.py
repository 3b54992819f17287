"""Qwen3-Omni: the thinker reads images and writes text; talker, vocoder and audio tower lie beside it."""

from collections.abc import Mapping

import numpy as np

from .grids import grid_rows
from .tiny import Row, TinyFamily

_IMAGE, _START, _END = 120, 121, 122
_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [1],
    "rms_norm_eps": 1e-6,
    "vocab_size": 128,
    "rope_theta": 10000.0,
    "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [4, 2, 2]},
    "max_position_embeddings": 512,
}
_VISION = {
    "model_type": "qwen3_omni_moe_vision_encoder",
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "out_hidden_size": 64,
    "num_heads": 2,
    "patch_size": 4,
    "spatial_patch_size": 4,
    "num_position_embeddings": 36,
    "deepstack_visual_indexes": [0, 1],
}
_AUDIO = {
    "d_model": 32,
    "encoder_layers": 1,
    "num_hidden_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "num_mel_bins": 16,
    "output_dim": 64,
    "downsample_hidden_size": 8,
    "max_source_positions": 64,
}
_CODES = {
    "num_hidden_layers": 1,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 32,
    "num_code_groups": 4,
    "layer_types": ["full_attention"],
}
_WAVES = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "decoder_dim": 32,
    "codebook_dim": 16,
    "codebook_size": 32,
    "semantic_codebook_size": 32,
    "num_quantizers": 4,
    "vector_quantization_hidden_dimension": 16,
    "upsample_rates": [2, 2],
    "upsampling_ratios": [2],
}


def _rows(generator: np.random.Generator) -> list[Row]:
    return grid_rows(
        generator,
        before=(_START,),
        image=_IMAGE,
        after=(_END,),
        patch_dim=3 * 2 * 4 * 4,
    )


FAMILIES: Mapping[str, TinyFamily] = {
    "qwen3_omni_moe": TinyFamily(
        config={
            "model_type": "qwen3_omni_moe",
            "thinker_config": {
                "model_type": "qwen3_omni_moe_thinker",
                "image_token_id": _IMAGE,
                "vision_start_token_id": _START,
                "vision_end_token_id": _END,
                "video_token_id": 123,
                "audio_token_id": 124,
                "audio_start_token_id": 125,
                "audio_end_token_id": 126,
                "text_config": _TEXT,
                "vision_config": _VISION,
                "audio_config": _AUDIO,
            },
            "talker_config": {
                "text_config": {**_TEXT, "num_hidden_layers": 1, "shared_expert_intermediate_size": 32},
                "code_predictor_config": _CODES,
                "num_code_groups": 4,
                "accept_hidden_layer": 1,
                "thinker_hidden_size": 64,
            },
            "code2wav_config": _WAVES,
        },
        rows=_rows,
    ),
}
