"""Towers that read images of any size, in front of DeepSeek-V3's language model: Kimi K2.5 and Mistral Large 3."""

from collections.abc import Mapping

import numpy as np

from .tiny import Inputs, Row, TinyFamily, noise, words

_IMAGE, _BREAK, _END = 120, 121, 122
_PATCH = 4
_Grid = tuple[int, int]
_ROWS: list[tuple[list[_Grid], int, int]] = [([(4, 4)], 9, 4), ([(4, 6), (2, 4)], 12, 6), ([], 15, 5)]
"""Per row: height and width in patches of each image, ordinary tokens, answer's tokens."""

_TEXT = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_shared_experts": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 16,
    "max_position_embeddings": 512,
}


def _kimi_rows(generator: np.random.Generator) -> list[Row]:
    """Four patches to one feature; patches of all images one after another."""

    def row(grids: list[_Grid], n_words: int, n_answer: int) -> Row:
        tokens = words(generator, 2)
        for height, width in grids:
            tokens += [_IMAGE] * (height * width // 4) + words(generator, 2)
        inputs: Inputs = {}
        if grids:
            n_patches = sum(height * width for height, width in grids)
            inputs = {
                "pixel_values": noise(generator, n_patches, 3, _PATCH, _PATCH),
                "image_grid_hws": np.array(grids, dtype=np.int32),
                "image_token_id": _IMAGE,
            }
        tokens += words(generator, n_words)
        return Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=frozenset([_IMAGE]))

    return [row(*each) for each in _ROWS]


def _mistral_rows(generator: np.random.Generator) -> list[Row]:
    """Lines of features that end with a token of their own; images padded to the largest."""

    def row(grids: list[_Grid], n_words: int, n_answer: int) -> Row:
        tokens = words(generator, 2)
        for height, width in grids:
            tokens += ([_IMAGE] * (width // 2) + [_BREAK]) * (height // 2)
            tokens[-1] = _END
            tokens += words(generator, 2)
        inputs: Inputs = {}
        if grids:
            sizes = np.array(grids, dtype=np.int64) * _PATCH
            pixels = np.zeros((len(grids), 3, *sizes.max(axis=0)), dtype=np.float32)
            for image, (height, width) in zip(pixels, sizes, strict=True):
                image[:, :height, :width] = noise(generator, 3, height, width)
            inputs = {"pixel_values": pixels, "image_sizes": sizes}
        tokens += words(generator, n_words)
        return Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=frozenset([_IMAGE, _BREAK, _END]))

    return [row(*each) for each in _ROWS]


FAMILIES: Mapping[str, TinyFamily] = {
    "kimi_k25": TinyFamily(
        config={
            "model_type": "kimi_k25",
            "media_placeholder_token_id": _IMAGE,
            "text_config": {**_TEXT, "model_type": "deepseek_v3", "rope_theta": 10000.0},
            "vision_config": {
                "model_type": "moonvit",
                "depth": 2,
                "embed_dim": 32,
                "hidden_size": 32,
                "num_heads": 2,
                "intermediate_size": 48,
                "patch_size": _PATCH,
                "init_pos_emb_height": 4,
                "init_pos_emb_width": 4,
            },
        },
        rows=_kimi_rows,
    ),
    "mistral_large3": TinyFamily(
        config={
            "model_type": "mistral_large3",
            "image_token_id": _IMAGE,
            "text_config": {**_TEXT, "model_type": "mistral_large3"},
            "vision_config": {
                "model_type": "pixtral",
                "hidden_size": 32,
                "head_dim": 16,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 32,
                "patch_size": _PATCH,
            },
        },
        rows=_mistral_rows,
    ),
}
