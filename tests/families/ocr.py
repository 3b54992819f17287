"""Readers of pages: DeepSeek-OCR, its second version, Unlimited-OCR and GOT behind a SAM encoder; Falcon-OCR."""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest import mock

import attrs
import numpy as np
from mlx import nn
from mlx_vlm.models.deepseekocr.config import SAMViTConfig
from mlx_vlm.models.deepseekocr.sam import SAMEncoder
from mlx_vlm.models.deepseekocr_2.config import Qwen2EncoderConfig
from mlx_vlm.models.falcon_ocr.language import precompute_freqs_1d

from .tiny import Inputs, Row, TinyFamily, noise, words

_BOS, _IMAGE, _START, _END = 0, 120, 121, 122
_PATCH = 4
_WIDTH = 32
_Cut = tuple[int, int]


def _small_sam(stride: int, **settings: Any) -> nn.Module:
    """Make a narrow encoder; widths and strides of the last three convolutions are constants of mlx-vlm's class."""
    encoder = SAMEncoder(**{**settings, "out_chans": 16})
    encoder.net_2 = nn.Conv2d(16, 24, kernel_size=3, stride=stride, padding=1, bias=False)
    encoder.net_3 = nn.Conv2d(24, _WIDTH, kernel_size=3, stride=stride, padding=1, bias=False)
    return encoder


def _small(module: str, side: int, stride: int = 2, **others: Any) -> Callable[[], AbstractContextManager[None]]:
    """Let a model be built with a small encoder of images of `side` pixels: it does not read config.json for it.

    Args:
        module: The family's.
        side: Pixels.
        stride: Of the last two convolutions.
        others: Classes of the family's tower to replace.
    """
    settings = SAMViTConfig(
        image_size=side, width=_WIDTH, layers=2, heads=2, patch_size=_PATCH, window_size=6, global_attn_indexes=(1,)
    )
    replaced = {"SAMViTConfig": lambda: settings, "SAMEncoder": functools.partial(_small_sam, stride)}

    @contextmanager
    def building() -> Iterator[None]:
        with ExitStack() as stack:
            for name, value in replaced.items():
                stack.enter_context(mock.patch(f"mlx_vlm.models.{module}.{module}.{name}", value))
            for name, value in others.items():
                stack.enter_context(mock.patch(f"mlx_vlm.models.{module}.vision.{name}", value))
            yield

    return building


_SIDE, _TILE = 64, 32


def _row(generator: np.random.Generator, tokens: list[int], inputs: Inputs, n_words: int, n_answer: int) -> Row:
    tokens = [_BOS, *tokens, *words(generator, n_words)]
    if inputs:
        inputs["images_seq_mask"] = np.array(tokens)[None] == _IMAGE
    return Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=frozenset([_IMAGE]))


def _views(generator: np.random.Generator, cuts: list[_Cut], side: int, tile: int) -> Inputs:
    """Make the tiles of all images, and the whole images; without tiles there is an empty one."""
    n_tiles = sum(across * down for across, down in cuts if across * down > 1)
    tiles = noise(generator, n_tiles, 3, tile, tile) if n_tiles else np.zeros((1, 3, side, side), dtype=np.float32)
    return {
        "pixel_values": [tiles, noise(generator, len(cuts), 3, side, side)],
        "images_spatial_crop": np.array(cuts, dtype=np.int32),
        "num_image_tokens": 1,
    }


def _lined(across: int, down: int) -> int:
    """Features of one image: lines of the whole of it and a separator; lines of its tiles if it is cut."""
    whole, part = _SIDE // 16, _TILE // 16
    return (whole + 1) * whole + 1 + ((part * across + 1) * part * down if across * down > 1 else 0)


def _deepseek_rows(generator: np.random.Generator) -> list[Row]:
    def row(cuts: list[_Cut], n_words: int, n_answer: int) -> Row:
        tokens = [token for cut in cuts for token in [*words(generator, 2), *[_IMAGE] * _lined(*cut)]]
        return _row(generator, tokens, _views(generator, cuts, _SIDE, _TILE) if cuts else {}, n_words, n_answer)

    return [row([(1, 1)], 9, 4), row([(2, 3)], 12, 6), row([], 15, 5)]


def _unlimited_rows(generator: np.random.Generator) -> list[Row]:
    def row(cuts: list[_Cut], n_words: int, n_answer: int) -> Row:
        tokens = [token for cut in cuts for token in [*words(generator, 2), *[_IMAGE] * _lined(*cut)]]
        return _row(generator, tokens, _views(generator, cuts, _SIDE, _TILE) if cuts else {}, n_words, n_answer)

    return [row([(1, 1)], 11, 4), row([(2, 1), (1, 1)], 18, 12), row([], 15, 5)]


def _queried_rows(side: int, generator: np.random.Generator) -> list[Row]:
    """144 features of each tile, 256 of the whole image of `side` pixels, a separator."""
    tile = side * 3 // 4

    def row(cut: _Cut | None, n_words: int, n_answer: int) -> Row:
        if cut is None:
            return _row(generator, [], {}, n_words, n_answer)
        inputs = _views(generator, [cut], side, tile)
        n_tiles = cut[0] * cut[1]
        if n_tiles == 1:
            # One tile is written too; the first version has none then.
            inputs["pixel_values"][0] = noise(generator, 1, 3, tile, tile)
        tokens = [*words(generator, 2), *[_IMAGE] * (144 * n_tiles + 257)]
        return _row(generator, tokens, inputs, n_words, n_answer)

    return [row((1, 1), 9, 4), row((2, 1), 12, 6), row(None, 15, 5)]


def _got_rows(generator: np.random.Generator) -> list[Row]:
    """One image to a row, channels last."""

    def row(n_images: int, n_words: int, n_answer: int) -> Row:
        tokens = [*words(generator, 3), _START, *[_IMAGE] * 16, _END] if n_images else []
        inputs: Inputs = {"pixel_values": noise(generator, 1, 64, 64, 3)} if n_images else {}
        tokens = tokens + words(generator, n_words)
        return Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=frozenset([_IMAGE]))

    return [row(1, 9, 4), row(1, 12, 6), row(0, 15, 5)]


_CLS, _REGISTERS = 110, (111, 112, 113, 114)


def _falcon_rows(generator: np.random.Generator) -> list[Row]:
    """A token before an image, four registers, one token for each patch, one behind; images of one size."""

    def row(grid: _Cut, n_images: int, n_words: int, n_answer: int) -> Row:
        tokens = words(generator, 2)
        height, width = grid
        image = [_CLS, *_REGISTERS, *[_IMAGE] * (height * width), _END]
        for _ in range(n_images):
            tokens += image
        inputs: Inputs = {}
        if n_images:
            inputs = {
                "pixel_values": noise(generator, n_images, height * _PATCH, width * _PATCH, 3),
                "image_grid_hw": np.array([grid] * n_images, dtype=np.int32),
            }
        tokens += words(generator, n_words)
        return Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=frozenset(image))

    return [row((3, 4), 1, 9, 4), row((4, 2), 2, 12, 6), row((1, 1), 0, 15, 5)]


def _tables(model: nn.Module) -> None:
    """Put back the tables of the rotary embedding, which are among the weights."""
    args: Any = model.language_model.args
    decoder: Any = model.language_model.model
    decoder.cos_1d, decoder.sin_1d = precompute_freqs_1d(
        args.head_dim // 2, args.max_position_embeddings, args.rope_theta
    )


_TEXT = {
    "model_type": "deepseek_v2",
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_shared_experts": 2,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
}
_CLIP = {
    "model_type": "vision",
    "layers": 2,
    "hidden_size": _WIDTH,
    "intermediate_size": 48,
    "num_attention_heads": 2,
}
_IDLE = {r"vision_model\.embeddings\.patch_embedding\.": "the SAM encoder's features take the place of patches"}


def _config(model_type: str, **text: Any) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "image_token_index": _IMAGE,
        "language_config": {**_TEXT, **text},
        "vision_config": _CLIP,
        "projector_config": {"projector_type": "linear", "input_dim": 2 * _WIDTH, "n_embed": 64},
    }


def _small_queried(side: int, stride: int) -> Callable[[], AbstractContextManager[None]]:
    """Let DeepSeek-OCR-2 have a small encoder, and a small reader of queries behind it."""
    reader = Qwen2EncoderConfig(dim=_WIDTH, layers=2, heads=2, kv_heads=1, intermediate_size=48)
    return _small("deepseekocr_2", side, stride, Qwen2EncoderConfig=lambda **_: reader)


FAMILIES: Mapping[str, TinyFamily] = {
    "deepseekocr": TinyFamily(
        config=_config("deepseekocr"),
        rows=_deepseek_rows,
        while_building=_small("deepseekocr", _SIDE),
        idle=_IDLE,
    ),
    "unlimited_ocr": TinyFamily(
        config=_config("unlimited_ocr", sliding_window_size=4, sliding_window=4),
        rows=_unlimited_rows,
        while_building=_small("deepseekocr", _SIDE),
        idle=_IDLE,
    ),
    "deepseekocr_2": TinyFamily(
        config={
            **_config("deepseekocr_2"),
            "vision_config": {"model_type": "vision"},
            "projector_config": {"projector_type": "linear", "input_dim": _WIDTH, "n_embed": 64},
        },
        # Numbers of features are constants; without strides as many patches give them, instead of 4,096 for 256.
        rows=functools.partial(_queried_rows, _SIDE),
        while_building=_small_queried(_SIDE, stride=1),
    ),
    "got": TinyFamily(
        config={
            "model_type": "got",
            "im_patch_token": _IMAGE,
            "im_start_token": _START,
            "im_end_token": _END,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "vocab_size": 128,
            "rms_norm_eps": 1e-6,
            "vision_config": {
                "img_size": 64,
                "patch_size": _PATCH,
                "embed_dim": _WIDTH,
                "depth": 2,
                "num_heads": 2,
                "out_chans": 16,
                "out_dim": _WIDTH,
                "window_size": 6,
                "global_attn_indexes": [1],
            },
        },
        rows=_got_rows,
    ),
    "falcon_ocr": TinyFamily(
        config={
            "model_type": "falcon_ocr",
            "dim": 64,
            "n_layers": 2,
            "n_heads": 4,
            "head_dim": 16,
            "n_kv_heads": 2,
            "vocab_size": 128,
            "ffn_dim": 96,
            "max_seq_len": 128,
            "spatial_patch_size": _PATCH,
            "img_id": _IMAGE,
            "img_end_id": _END,
            "image_cls_token_id": _CLS,
            **{f"image_reg_{number}_token_id": token for number, token in enumerate(_REGISTERS, start=1)},
            "text_config": {
                "hidden_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "head_dim": 16,
                "num_key_value_heads": 2,
                "vocab_size": 128,
                "intermediate_size": 96,
                "max_position_embeddings": 128,
            },
            "vision_config": {"spatial_patch_size": _PATCH},
        },
        rows=_falcon_rows,
        prepare=_tables,
    ),
}

WITH_STRIDES: Mapping[str, TinyFamily] = {
    "deepseekocr_2": attrs.evolve(
        FAMILIES["deepseekocr_2"],
        rows=functools.partial(_queried_rows, 4 * _SIDE),
        while_building=_small_queried(4 * _SIDE, stride=2),
    )
}
"""Families with the convolutions of the published model, of which transformers has the strides as constants too."""
