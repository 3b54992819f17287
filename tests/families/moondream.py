"""Moondream 2 and 3: crops pooled onto one grid behind BOS; the prefix up to its end sees itself whole."""

from collections.abc import Mapping

import numpy as np

from .tiny import Inputs, Row, TinyFamily, noise, words

_BOS = 0
_SIDE = 16
_FEATURES = 16


def _rows(generator: np.random.Generator) -> list[Row]:
    def row(layout: tuple[int, int] | None, n_words: int, n_answer: int) -> Row:
        """Make a row with one image, cut into crops (down, across) besides the whole of it."""
        tokens = [_BOS]
        inputs: Inputs = {}
        if layout:
            n_crops = 1 + layout[0] * layout[1]
            tokens += [_BOS] * _FEATURES
            inputs = {
                "pixel_values": noise(generator, n_crops, _SIDE, _SIDE, 3),
                "num_crops": [n_crops],
                "crop_layouts": [layout],
            }
        tokens += words(generator, n_words)
        return Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=frozenset([_BOS]))

    return [row((1, 1), 9, 4), row((2, 3), 12, 6), row(None, 15, 5)]


_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "vocab_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "rope_theta": 10000.0,
}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 4,
    "crop_size": _SIDE,
    "max_crops": 12,
    "overlap_margin": 1,
    "proj_inner_dim": 48,
    "proj_out_dim": 64,
}

FAMILIES: Mapping[str, TinyFamily] = {
    "moondream2": TinyFamily(
        config={
            "model_type": "moondream2",
            "text_config": {"num_hidden_layers": 2, **_TEXT},
            "vision_config": _VISION,
        },
        rows=_rows,
    ),
    "moondream3": TinyFamily(
        config={
            "model_type": "moondream3",
            "text_config": {
                "num_hidden_layers": 3,
                **_TEXT,
                "head_dim": 16,
                "rope_dim": 8,
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 32,
                "moe_start_layer": 1,
                "prefix_attn": 1 + _FEATURES,
            },
            "vision_config": _VISION,
        },
        rows=_rows,
    ),
}
