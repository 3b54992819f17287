"""Florence-2: an encoder reads the image and a task, a decoder writes; only the decoder's ids are a row's tokens."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from mlx import nn

from .tiny import Inputs, Row, TinyFamily, noise, words

_IMAGE = 120
_BOS, _EOS, _DECODER_START = 0, 2, 2
_SIDE = 64
_FEATURES = 5  # 2 x 2 of the last stage, and their mean


def _rows(generator: np.random.Generator) -> list[Row]:
    def row(n_task: int, n_answer: int) -> Row:
        prompt = [*([_IMAGE] * _FEATURES), _BOS, *words(generator, n_task), _EOS]
        tokens = [_DECODER_START, _BOS, *words(generator, n_answer - 1), _EOS]
        inputs: Inputs = {
            "pixel_values": noise(generator, 1, 3, _SIDE, _SIDE),
            "prompt_ids": np.array([prompt], dtype=np.int32),
        }
        return Row(tokens=tokens, n_answer=n_answer, inputs=inputs)

    return [row(3, 4), row(6, 7), row(2, 5)]


def _tie(model: nn.Module) -> None:
    """Give the head the weights of the table, as published models have."""
    language: Any = model.language_model
    language.lm_head.weight = language.model.shared.weight


FAMILIES: Mapping[str, TinyFamily] = {
    "florence2": TinyFamily(
        config={
            "model_type": "florence2",
            "vocab_size": 128,
            "image_token_id": _IMAGE,
            "image_token_index": _IMAGE,
            "image_pos_embed": {"type": "learned_abs_2d", "max_pos_embeddings": 8},
            "visual_temporal_embedding": {"type": "COSINE", "max_temporal_embeddings": 4},
            "image_feature_source": ["temporal_avg_pool", "spatial_avg_pool"],
            "text_config": {
                "model_type": "florence2",
                "d_model": 64,
                "encoder_attention_heads": 4,
                "decoder_attention_heads": 4,
                "encoder_ffn_dim": 96,
                "decoder_ffn_dim": 96,
                "encoder_layers": 2,
                "decoder_layers": 2,
                "max_position_embeddings": 64,
                "vocab_size": 128,
                "decoder_start_token_id": _DECODER_START,
            },
            "vision_config": {
                "model_type": "davit",
                "depths": [1, 1, 1, 1],
                "dim_embed": [16, 16, 32, 32],
                "num_heads": [2, 2, 2, 2],
                "num_groups": [2, 2, 2, 2],
                "window_size": 4,
                "mlp_ratio": 2.0,
                "hidden_size": 64,
                "image_size": [_SIDE, _SIDE],
            },
        },
        rows=_rows,
        prepare=_tie,
        idle={
            r"k_proj\.bias$": "what is added to all keys changes no attention",
        },
        without_text_rows="its prompts are tasks on an image",
    ),
}
