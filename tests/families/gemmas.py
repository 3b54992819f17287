"""Gemma 3n, whose tower has sizes that no configuration changes, and Gemma 4 without a tower: no tiny checkpoints."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from unittest import mock

import numpy as np
from mlx import nn
from mlx_vlm.models.gemma3n import vision

from .tiny import Row, TinyFamily, noise, words

_N_WORDS, _N_SOFT = 128, 16
_IMAGE, _START = _N_WORDS + 1, _N_WORDS + 2
_PER_IMAGE = 4
_SIDE = 64
_WIDTH = 32


@contextmanager
def small_tower() -> Iterator[None]:
    """The tower's stages, and what fuses their features, with a few channels; the kinds of blocks are all there."""
    block, attention = vision._uir, vision._mmqa
    stages = [
        [vision._er(3, 8, 2)],
        [block(3, 5, 16, 2, 2.0), block(3, 0, 16)],
        [block(5, 5, 24, 2, 2.0), attention(2, 8, 2), block(0, 0, 24, 1, 2.0, is_multiscale=True)],
        [block(5, 5, 32, 2, 2.0), attention(2, 8, 1), block(0, 0, 32, 1, 2.0, is_multiscale=True)],
    ]
    fuse = vision.MobileNetV5MultiScaleFusionAdapter

    def small_fusion(**_: object) -> vision.MobileNetV5MultiScaleFusionAdapter:
        return fuse(in_chs=[24, 32], out_chs=_WIDTH, output_resolution=(2, 2))

    with mock.patch.multiple(
        vision,
        gemma3n_mobilenet_def=lambda: stages,
        MobileNetV5MultiScaleFusionAdapter=small_fusion,
    ):
        yield


def soften(model: nn.Module) -> None:
    """Queries and keys are normalized, and their products not divided by anything: halves of both keep them small."""
    for layer in model.language_model.model.layers:
        for norm in (layer.self_attn.q_norm, layer.self_attn.k_norm):
            norm.weight = norm.weight / 2


def _rows(generator: np.random.Generator) -> list[Row]:
    def row(n_images: int, n_words: int, n_answer: int) -> Row:
        image = [_START, *([_IMAGE] * _PER_IMAGE)]
        tokens = words(generator, 2) + (image + words(generator, 2)) * n_images + words(generator, n_words)
        inputs = {"pixel_values": noise(generator, n_images, 3, _SIDE, _SIDE)} if n_images else {}
        return Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=frozenset([_IMAGE]))

    return [row(1, 9, 4), row(2, 14, 6), row(0, 15, 5)]


def _patch_rows(generator: np.random.Generator) -> list[Row]:
    """Images as patches, padded to one number with places of -1."""

    def row(sizes: list[tuple[int, int]], n_words: int, n_answer: int) -> Row:
        tokens, pixels, places = words(generator, 2), [], []
        for down, across in sizes:
            tokens += [_START, *([_IMAGE] * (down * across)), _START + 1, *words(generator, 2)]
            grid = np.stack(np.meshgrid(np.arange(across), np.arange(down)), axis=-1).reshape(-1, 2)
            places.append(np.pad(grid, ((0, 12 - len(grid)), (0, 0)), constant_values=-1))
            pixels.append(noise(generator, 12, 4 * 4 * 3) * np.all(places[-1] >= 0, axis=1)[:, None].astype(np.float32))
        inputs = {"pixel_values": np.stack(pixels), "image_position_ids": np.stack(places)} if sizes else {}
        tokens += words(generator, n_words)
        return Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=frozenset([_IMAGE]))

    return [row([(3, 4)], 9, 4), row([(2, 3), (4, 3)], 14, 6), row([], 15, 5)]


FAMILIES: Mapping[str, TinyFamily] = {
    "gemma3n": TinyFamily(
        config={
            "model_type": "gemma3n",
            "image_token_id": _IMAGE,
            "audio_token_id": _N_WORDS + _N_SOFT + 1,
            "vision_soft_tokens_per_image": _PER_IMAGE,
            "text_config": {
                "model_type": "gemma3n_text",
                "activation_sparsity_pattern": [0.5, 0.5, 0.0, 0.0, 0.0, 0.0],
                "altup_coef_clip": 120.0,
                "altup_num_inputs": 4,
                "final_logit_softcapping": 30.0,
                "head_dim": 16,
                "hidden_size": 64,
                "hidden_size_per_layer_input": 32,
                "intermediate_size": [64] * 6,
                "laurel_rank": 32,
                "layer_types": ["sliding_attention", "full_attention"] * 3,
                "num_attention_heads": 4,
                "num_hidden_layers": 6,
                "num_key_value_heads": 2,
                "num_kv_shared_layers": 2,
                "sliding_window": 8,
                "vocab_size": _N_WORDS + 2 * _N_SOFT,
                "vocab_size_per_layer_input": _N_WORDS,
            },
            "vision_config": {
                "model_type": "gemma3n_vision",
                "hidden_size": _WIDTH,
                "vocab_offset": _N_WORDS,
                "vocab_size": _N_SOFT,
            },
            "audio_config": {
                "conf_num_attention_heads": 2,
                "conf_num_hidden_layers": 1,
                "hidden_size": 32,
                "sscp_conv_channel_size": [8, 4],
                "vocab_offset": _N_WORDS + _N_SOFT,
                "vocab_size": _N_SOFT,
            },
        },
        rows=_rows,
        prepare=soften,
        while_building=small_tower,
        idle={
            r"layers\.[45]\.self_attn\.[kv]_(proj|norm)\.": "the last layers take keys and values of earlier ones",
        },
    ),
    "gemma4_unified": TinyFamily(
        config={
            "model_type": "gemma4_unified",
            "image_token_id": _IMAGE,
            "audio_token_id": _N_WORDS + 5,
            "video_token_id": _N_WORDS + 6,
            "text_config": {
                "model_type": "gemma4_unified_text",
                "final_logit_softcapping": 30.0,
                "global_head_dim": 32,
                "head_dim": 16,
                "hidden_size": 64,
                "intermediate_size": 64,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
                "num_attention_heads": 4,
                "num_global_key_value_heads": 1,
                "num_hidden_layers": 4,
                "num_key_value_heads": 2,
                # Shorter than an image.
                "sliding_window": 8,
                "use_bidirectional_attention": "vision",
                "vocab_size": _N_WORDS + _N_SOFT,
            },
            "vision_config": {
                "mm_embed_dim": _WIDTH,
                "mm_posemb_size": 8,
                "model_patch_size": 4,
                "output_proj_dims": _WIDTH,
                "patch_size": 2,
                "pooling_kernel_size": 2,
            },
            "audio_config": {"hidden_size": 32, "output_proj_dims": 32},
        },
        rows=_patch_rows,
    ),
}
