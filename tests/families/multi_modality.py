"""Janus and DeepSeek-VL: one image of fixed size to a row, through SigLIP and an aligner."""

from collections.abc import Mapping

import numpy as np

from .tiny import Row, TinyFamily, noise, words

_IMAGE, _START, _END = 120, 121, 122
_FEATURES = 16


def _rows(generator: np.random.Generator) -> list[Row]:
    def row(n_before: int, n_words: int, n_answer: int, *, has_image: bool = True) -> Row:
        tokens = words(generator, n_before)
        inputs = {}
        if has_image:
            tokens += [_START, *([_IMAGE] * _FEATURES), _END]
            inputs = {"pixel_values": noise(generator, 1, 3, 16, 16)}
        tokens += words(generator, n_words)
        return Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=frozenset([_IMAGE]))

    return [row(2, 9, 4), row(4, 12, 6), row(2, 13, 5, has_image=False)]


FAMILIES: Mapping[str, TinyFamily] = {
    "multi_modality": TinyFamily(
        config={
            "model_type": "multi_modality",
            "image_token_index": _IMAGE,
            "num_image_tokens": _FEATURES,
            "vocab_size": 128,
            "text_config": {
                "model_type": "llama",
                "hidden_size": 64,
                "intermediate_size": 96,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "vocab_size": 128,
            },
            "vision_config": {
                "model_type": "vision",
                "cls": "CLIPVisionTower",
                "params": {"image_size": 16, "model_name": "siglip_large_patch16_384"},
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 16,
                "patch_size": 4,
            },
            "aligner_config": {
                "model_type": "aligner",
                "cls": "MlpProjector",
                "params": {"depth": 2, "input_dim": 32, "n_embed": 64, "projector_type": "mlp_gelu"},
            },
        },
        rows=_rows,
        idle={r"attn_pool\.": "the features are taken before it"},
    ),
}
