"""Llama 4: tiles through a tower with pixel shuffle; chunked and full attention, dense layers and experts."""

from collections.abc import Mapping

import numpy as np

from .tiny import Row, TinyFamily, noise, words

_IMAGE, _START, _END, _BETWEEN, _BELOW, _WHOLE = 120, 121, 122, 123, 124, 125
_SIDE = 16
_PER_TILE = 4  # 4 x 4 patches, shuffled into 2 x 2


def _image(down: int, across: int) -> list[int]:
    """The ids of an image cut into tiles, and of the whole image after them."""
    tile = [_IMAGE] * _PER_TILE
    cut = down * across > 1
    line = [*tile, *([_BETWEEN, *tile] * (across - 1)), _BELOW]
    return [_START, *(line * down if cut else []), _WHOLE, *tile, _END]


def _rows(generator: np.random.Generator) -> list[Row]:
    def row(cuts: list[tuple[int, int]], n_words: int, n_answer: int) -> Row:
        tokens = words(generator, 2)
        for down, across in cuts:
            tokens += _image(down, across) + words(generator, 2)
        n_tiles = sum(down * across + (down * across > 1) for down, across in cuts)
        inputs = {"pixel_values": noise(generator, n_tiles, 3, _SIDE, _SIDE)} if cuts else {}
        tokens += words(generator, n_words)
        return Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=frozenset([_IMAGE]))

    return [row([(1, 1)], 9, 4), row([(1, 2), (1, 1)], 12, 6), row([], 15, 5)]


FAMILIES: Mapping[str, TinyFamily] = {
    "llama4": TinyFamily(
        config={
            "model_type": "llama4",
            "image_token_index": _IMAGE,
            "text_config": {
                "model_type": "llama4_text",
                "hidden_size": 64,
                "intermediate_size": 32,
                "intermediate_size_mlp": 96,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "vocab_size": 128,
                # As mlx-vlm's norm of queries and keys has it always, where vlora has the configured one.
                "rms_norm_eps": 1e-6,
                "rope_theta": 10000.0,
                "num_local_experts": 4,
                "num_experts_per_tok": 1,
                "interleave_moe_layer_step": 2,
                "attention_chunk_size": 16,
                "attn_temperature_tuning": 4,
                "floor_scale": 8,
            },
            "vision_config": {
                "model_type": "llama4_vision_model",
                "hidden_size": 32,
                "image_size": _SIDE,
                "patch_size": 4,
                "initializer_range": 0.02,
                "intermediate_size": 128,
                "norm_eps": 1e-5,
                "num_attention_heads": 2,
                "num_channels": 3,
                "num_hidden_layers": 2,
                "pixel_shuffle_ratio": 0.5,
                "projector_dropout": 0.0,
                "projector_input_dim": 64,
                "projector_output_dim": 64,
                "rope_theta": 10000.0,
                "vision_feature_layer": -1,
                "vision_feature_select_strategy": "default",
                "vision_output_dim": 64,
            },
        },
        rows=_rows,
    ),
}
