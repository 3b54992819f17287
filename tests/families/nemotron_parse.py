"""Nemotron-Parse: a tower encodes a page, a decoder writes it; the prompt is the decoder's first tokens."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from mlx import nn

from .tiny import Row, TinyFamily, noise, words

_BOS, _START = 0, 2


def _rows(generator: np.random.Generator) -> list[Row]:
    def row(n_prompt: int, n_answer: int) -> Row:
        tokens = [_START, _BOS, *words(generator, n_prompt + n_answer - 1), _START]
        return Row(tokens=tokens, n_answer=n_answer, inputs={"pixel_values": noise(generator, 1, 3, 16, 32)})

    return [row(3, 4), row(6, 7), row(2, 5)]


def _tie(model: nn.Module) -> None:
    """Give the head the weights of the table, as published models of version 2 have."""
    language: Any = model.language_model
    language.lm_head.weight = language.model.shared.weight


FAMILIES: Mapping[str, TinyFamily] = {
    "nemotron_parse": TinyFamily(
        config={
            "model_type": "nemotron_parse",
            "vocab_size": 128,
            "vision_config": {
                "hidden_size": 32,
                "num_heads": 2,
                "mlp_ratio": 2.0,
                "num_layers": 2,
                "patch_size": 4,
                "neck_dim": 64,
            },
            "decoder": {
                "d_model": 64,
                "decoder_attention_heads": 4,
                "decoder_ffn_dim": 96,
                "decoder_layers": 2,
                "vocab_size": 128,
            },
            "decoder_start_token_id": _START,
        },
        rows=_rows,
        prepare=_tie,
        idle={r"k_proj\.bias$": "what is added to all keys changes no attention"},
        without_text_rows="it writes what an image shows",
    ),
}
