"""Molmo, Molmo 2 and Molmo-Point: a small whole image and overlapping crops; features are added to placeholders."""

from collections.abc import Mapping

import attrs
import numpy as np

from .tiny import Inputs, Row, TinyFamily, noise, words

_PATCH, _COLUMN, _START, _END, _LOW_START, _SMALL_PATCH = 120, 121, 122, 123, 124, 125
_SIDE = 6  # patches along a crop
_MARGIN = 2  # patches that neighbouring crops share, on either side
_PIXELS = 3 * 4 * 4
_Cut = tuple[int, int]


def _grid(height: int, width: int, start: int = _START) -> list[int]:
    """The ids of features laid out in lines."""
    return [start, *(([_PATCH] * width + [_COLUMN]) * height), _END]


def _extent(n_crops: int) -> int:
    """Patches along `n_crops` overlapping crops."""
    return n_crops * (_SIDE - 2 * _MARGIN) + 2 * _MARGIN


def _whole_side() -> int:
    return _SIDE // 2  # two patches are pooled into one, along each side


def _molmo_places(tokens: np.ndarray, down: int, across: int) -> np.ndarray:
    """The place of every pooled feature of every crop, i32[crops, features]; -100 for those that are not used.

    A crop writes the part that no neighbour before it writes; features are laid out line by line of the whole image.
    """
    side, half = _whole_side(), _MARGIN // 2
    spots = np.flatnonzero(tokens == _PATCH).astype(np.int32)
    places = [spots[: side * side]]
    fine = spots[side * side :].reshape(_extent(down) // 2, _extent(across) // 2)
    window = side - 2 * half
    for i in range(down):
        for j in range(across):
            crop = np.full((side, side), -100, dtype=np.int32)
            top, left = half * (i > 0), half * (j > 0)
            bottom, right = side - half * (i < down - 1), side - half * (j < across - 1)
            y, x = i * window, j * window
            crop[top:bottom, left:right] = fine[y + top : y + bottom, x + left : x + right]
            places.append(crop.ravel())
    return np.stack([place.ravel() for place in places])


def _molmo_masks(n_crops: int) -> np.ndarray:
    """How much of each patch is image, f32[crops, patches], the last crop all -1, as mlx-vlm's processor writes it."""
    masks = np.ones((n_crops, _SIDE, _SIDE), dtype=np.float32)
    masks[:, 0] = 0.0
    masks[:, 1] = 0.25
    masks[-1] = -1.0
    return masks.reshape(n_crops, -1)


def _molmo_rows(generator: np.random.Generator) -> list[Row]:
    def row(cut: _Cut | None, n_words: int, n_answer: int) -> Row:
        tokens: list[int] = []
        inputs: Inputs = {}
        if cut:
            down, across = cut
            n_crops = 1 + down * across
            tokens = _grid(_whole_side(), _whole_side()) + _grid(_extent(down) // 2, _extent(across) // 2)
            inputs = {
                "pixel_values": noise(generator, n_crops, _SIDE * _SIDE, _PIXELS),
                "image_input_idx": _molmo_places(np.array(tokens), down, across),
                "image_masks": _molmo_masks(n_crops),
            }
        tokens = tokens + words(generator, n_words)
        return Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=frozenset([_PATCH]))

    return [row((1, 1), 9, 4), row((1, 2), 12, 6), row(None, 15, 5)]


def _pooled(patches: np.ndarray) -> np.ndarray:
    """The patches that are pooled into each feature, i64[features, 4]."""
    height, width = patches.shape
    return patches.reshape(height // 2, 2, width // 2, 2).transpose(0, 2, 1, 3).reshape(-1, 4)


def _covered(down: int, across: int) -> np.ndarray:
    """The patch of a crop that stands at each place of the whole image."""
    whole = np.zeros((_extent(down), _extent(across)), dtype=np.int64)
    window = _SIDE - 2 * _MARGIN
    for i in range(down):
        for j in range(across):
            crop = (i * across + j) * _SIDE * _SIDE + np.arange(_SIDE * _SIDE).reshape(_SIDE, _SIDE)
            top, left = _MARGIN * (i > 0), _MARGIN * (j > 0)
            bottom, right = _SIDE - _MARGIN * (i < down - 1), _SIDE - _MARGIN * (j < across - 1)
            y, x = i * window, j * window
            whole[y + top : y + bottom, x + left : x + right] = crop[top:bottom, left:right]
    return whole


def _molmo2_rows(generator: np.random.Generator) -> list[Row]:
    def row(cuts: list[_Cut], n_words: int, n_answer: int) -> Row:
        tokens = words(generator, 2)
        pooling, grids = [], []
        for down, across in cuts:
            side, height, width = _whole_side(), _extent(down) // 2, _extent(across) // 2
            tokens += _grid(side, side, _LOW_START) + _grid(height, width) + words(generator, 2)
            small = np.arange(_SIDE * _SIDE).reshape(_SIDE, _SIDE)
            pooling += [_pooled(small), _pooled(_covered(down, across) + _SIDE * _SIDE)]
            grids.append((side, side, height, width))
        inputs: Inputs = {}
        if cuts:
            crops = [1 + down * across for down, across in cuts]
            inputs = {
                "pixel_values": noise(generator, sum(crops), _SIDE * _SIDE, _PIXELS),
                "image_token_pooling": np.concatenate(pooling),
                "image_grids": np.array(grids, dtype=np.int32),
                "image_num_crops": np.array(crops, dtype=np.int64),
            }
        tokens += words(generator, n_words)
        return Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=frozenset([_PATCH]))

    return [row([(1, 1)], 9, 4), row([(1, 2), (1, 1)], 12, 6), row([], 15, 5)]


def _molmo_point_rows(generator: np.random.Generator) -> list[Row]:
    """As Molmo 2's; the small image has another id and no columns, and image tokens are marked."""
    rows = []
    for row in _molmo2_rows(generator):
        tokens: list[int] = []
        within_small = False
        for token in row.tokens:
            within_small = token == _LOW_START or (within_small and token != _END)
            if not (within_small and token == _COLUMN):
                tokens.append(_SMALL_PATCH if within_small and token == _PATCH else token)
        if row.inputs:
            row.inputs["token_type_ids"] = (np.array(tokens)[None] >= _PATCH).astype(np.int64)
        rows.append(attrs.evolve(row, tokens=tokens, image_tokens=frozenset([_PATCH, _SMALL_PATCH])))
    return rows


_WIDTHS = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}

FAMILIES: Mapping[str, TinyFamily] = {
    "molmo": TinyFamily(
        config={
            "model_type": "molmo",
            "text_config": {
                "model_type": "molmo",
                "d_model": 64,
                "n_heads": 4,
                "n_kv_heads": 2,
                "n_layers": 2,
                "mlp_hidden_size": 192,
                "vocab_size": 128,
                "embedding_size": 112,
                "additional_vocab_size": 16,
                "rope_theta": 10000.0,
            },
            "vision_config": {
                "model_type": "molmo",
                "image_default_input_size": [24, 24],
                "image_patch_size": 4,
                "image_pos_patch_size": 4,
                "hidden_size": 48,
                "image_emb_dim": 32,
                "image_num_heads": 2,
                "image_num_key_value_heads": 2,
                "image_num_layers": 3,
                "image_head_dim": 16,
                "image_mlp_dim": 48,
                "image_num_pos": 37,
                "d_model": 64,
                "vit_layers": [-2, -3],
            },
        },
        rows=_molmo_rows,
        idle={r"image_vit\.transformer\.resblocks\.2\.": "the features are those of the layers before it"},
    ),
    "molmo2": TinyFamily(
        config={
            "model_type": "molmo2",
            "image_start_token_id": _START,
            "low_res_image_start_token_id": _LOW_START,
            "image_end_token_id": _END,
            "image_patch_id": _PATCH,
            "image_col_id": _COLUMN,
            "image_low_res_id": 125,
            "frame_start_token_id": 126,
            "frame_end_token_id": 127,
            "text_config": {
                "model_type": "molmo2",
                **_WIDTHS,
                "hidden_size": 64,
                "intermediate_size": 96,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "vocab_size": 112,
                "additional_vocab_size": 16,
                "rope_theta": 10000.0,
            },
            "vision_config": {
                "vit_config": {
                    "model_type": "molmo2",
                    **_WIDTHS,
                    "intermediate_size": 48,
                    "num_hidden_layers": 3,
                    "image_default_input_size": [24, 24],
                    "image_patch_size": 4,
                    "image_num_pos": 36,
                },
                "adapter_config": {
                    "model_type": "molmo2",
                    **_WIDTHS,
                    "intermediate_size": 48,
                    "text_hidden_size": 64,
                    "vit_layers": [-2, -3],
                },
            },
        },
        rows=_molmo2_rows,
        idle={r"image_vit\.transformer\.2\.": "the features are those of the layers before it"},
    ),
    "molmo_point": TinyFamily(
        config={
            "model_type": "molmo_point",
            "image_start_token_id": _START,
            "image_end_token_id": _END,
            "image_patch_id": _PATCH,
            "image_high_res_id": _PATCH,
            "image_col_id": _COLUMN,
            "image_non_indexable_patch_id": _SMALL_PATCH,
            "patch_embed_dim": 16,
            "text_config": {
                "model_type": "molmo2_text",
                **_WIDTHS,
                "hidden_size": 64,
                "intermediate_size": 96,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "vocab_size": 112,
                "additional_vocab_size": 16,
                "rope_theta": 10000.0,
            },
            "vision_config": {
                "model_type": "molmo2",
                **_WIDTHS,
                "intermediate_size": 48,
                "num_hidden_layers": 3,
                "image_default_input_size": [24, 24],
                "image_patch_size": 4,
                "image_num_pos": 36,
            },
            "adapter_config": {
                "model_type": "molmo_point",
                **_WIDTHS,
                "intermediate_size": 48,
                "text_hidden_size": 64,
                "vit_layers": [-2, -3],
            },
        },
        rows=_molmo_point_rows,
        idle={
            r"point_predictor\.": "it points while answering; the answers of these rows have no points",
            r"build_vit_embedding\.": "it embeds points, which these rows have not",
        },
    ),
}
