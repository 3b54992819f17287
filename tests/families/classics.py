"""LLaVA and its relatives: a CLIP tower, a projector, one placeholder per patch."""

from collections.abc import Mapping

import numpy as np

from .tiny import Row, TinyFamily, noise, words

_IMAGE = 120
_CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
    "projection_dim": 32,
}
_LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "rms_norm_eps": 1e-5,
}


def _llava_rows(generator: np.random.Generator) -> list[Row]:
    def row(n_images: int, n_words: int, n_answer: int) -> Row:
        tokens = words(generator, 2) + ([_IMAGE] * 4 + words(generator, 2)) * n_images + words(generator, n_words)
        inputs = {"pixel_values": noise(generator, n_images, 3, 16, 16)} if n_images else {}
        return Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=frozenset([_IMAGE]))

    return [row(1, 7, 4), row(2, 12, 6), row(0, 9, 5)]


FAMILIES: Mapping[str, TinyFamily] = {
    "llava": TinyFamily(
        config={
            "model_type": "llava",
            "image_token_index": _IMAGE,
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "default",
            "text_config": _LLAMA,
            "vision_config": _CLIP,
        },
        rows=_llava_rows,
        idle={
            r"vision_tower\..*\.layers\.1\.": "the features are those of the last layer but one",
            r"vision_tower\..*\.post_layernorm\.": "the features are taken before it",
        },
    ),
}
