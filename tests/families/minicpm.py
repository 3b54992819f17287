"""MiniCPM-o and MiniCPM-V: images and slices of them between markers; the model is told where the features go."""

from collections.abc import Mapping, Sequence

import numpy as np

from .tiny import Inputs, Row, TinyFamily, noise, words

_FEATURE, _START, _END, _SLICE_START, _SLICE_END, _LINE, _VIDEO = 120, 121, 122, 123, 124, 125, 126
_NUMBER_START, _NUMBER_END = 110, 111
_PATCH = 4
_QUERIES = 4
_Grid = tuple[int, int]
_Crops = Sequence[Sequence[_Grid]]
"""The patches, down and across, of an image and of its slices: lines of slices of one size."""


def _marked(start: int, n_features: int, end: int) -> list[int]:
    return [start, *([_FEATURE] * n_features), end]


def _bounds(tokens: list[int]) -> np.ndarray:
    """First and last place of the features of every image and slice, i32[images, 2]."""
    ids = np.array(tokens)
    starts = np.flatnonzero(np.isin(ids, [_START, _SLICE_START])) + 1
    ends = np.flatnonzero(np.isin(ids, [_END, _SLICE_END]))
    return np.stack([starts, ends], axis=1).astype(np.int32)


def _row(tokens: list[int], n_answer: int, pixels: list[np.ndarray], grids: Sequence[_Grid]) -> Row:
    """Make a row in the processors' format: a list of the images of one row, of different sizes."""
    inputs: Inputs = {}
    if pixels:
        inputs = {
            "pixel_values": [pixels],
            "tgt_sizes": [np.array(grids, dtype=np.int32)],
            "image_bound": [_bounds(tokens)],
        }
    return Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=frozenset([_FEATURE]))


def _omni_rows(generator: np.random.Generator) -> list[Row]:
    """Whole images; each becomes the resampler's queries."""

    def row(grids: list[_Grid], n_words: int, n_answer: int) -> Row:
        tokens = words(generator, 2)
        for _ in grids:
            tokens += _marked(_START, _QUERIES, _END) + words(generator, 2)
        pixels = [noise(generator, 3, _PATCH * down, _PATCH * across) for down, across in grids]
        return _row(tokens + words(generator, n_words), n_answer, pixels, grids)

    return [row([(4, 4)], 9, 4), row([(2, 3), (4, 2)], 12, 6), row([], 15, 5)]


def _sliced_rows(generator: np.random.Generator) -> list[Row]:
    """Whole images and slices of them, patches laid out side by side; sixteen patches to a feature."""

    def row(images: Sequence[tuple[_Grid, _Crops]], n_words: int, n_answer: int) -> Row:
        tokens = words(generator, 2)
        grids = []
        for number, (whole, slices) in enumerate(images):
            tokens += [_NUMBER_START, 10 + number, _NUMBER_END, *_marked(_START, whole[0] * whole[1] // 16, _END)]
            grids.append(whole)
            for n_line, line in enumerate(slices):
                tokens += [_LINE] * (n_line > 0)
                for down, across in line:
                    tokens += _marked(_SLICE_START, down * across // 16, _SLICE_END)
                grids += line
            tokens += words(generator, 2)
        pixels = [noise(generator, 3, _PATCH, _PATCH * down * across) for down, across in grids]
        return _row(tokens + words(generator, n_words), n_answer, pixels, grids)

    cut = [[(4, 4), (4, 4)], [(4, 4), (4, 4)]]
    return [row([((4, 8), [])], 9, 4), row([((8, 8), cut), ((8, 4), [])], 12, 6), row([], 15, 5)]


_SIGLIP = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": _PATCH,
}
_HYBRID = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 128,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 512,
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
}
_DENSE = {**_HYBRID, "model_type": "qwen3_5_text", "intermediate_size": 96}
_EXPERTS = {
    **_HYBRID,
    "model_type": "qwen3_5_moe_text",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "shared_expert_intermediate_size": 32,
    "moe_intermediate_size": 32,
}
_WINDOWED = {"vision_config": {"model_type": "siglip", "num_hidden_layers": 3, **_SIGLIP}, "insert_layer_id": 1}
_CANVAS = {
    "model_type": "minicpmv4_7",
    "image_token_id": _FEATURE,
    "video_token_id": _VIDEO,
    "image_start_id": _START,
    "image_end_id": _END,
    "slice_start_id": _SLICE_START,
    "slice_end_id": _SLICE_END,
    "newline_id": _LINE,
    **_WINDOWED,
}

FAMILIES: Mapping[str, TinyFamily] = {
    "minicpmo": TinyFamily(
        config={
            "model_type": "minicpmo",
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "rms_norm_eps": 1e-6,
            "vocab_size": 128,
            "rope_theta": 10000.0,
            "rope_scaling": {"type": "default", "mrope_section": [4, 2, 2]},
            "max_position_embeddings": 512,
            "query_num": _QUERIES,
            "patch_size": _PATCH,
            "vision_config": {"model_type": "siglip", "num_hidden_layers": 2, **_SIGLIP},
            "audio_config": {
                "model_type": "whisper",
                "d_model": 32,
                "encoder_layers": 1,
                "encoder_attention_heads": 2,
                "encoder_ffn_dim": 128,
                "num_mel_bins": 8,
                "max_source_positions": 16,
            },
        },
        rows=_omni_rows,
    ),
    "minicpmv4_6": TinyFamily(
        config={"model_type": "minicpmv4_6", "text_config": _DENSE, **_WINDOWED},
        rows=_sliced_rows,
    ),
    "minicpmv4_7": TinyFamily(config={**_CANVAS, "text_config": _DENSE}, rows=_sliced_rows),
    "minicpmv4_7_experts": TinyFamily(config={**_CANVAS, "text_config": _EXPERTS}, rows=_sliced_rows),
}
