"""LocateAnything and Youtu-VL: patches of all images of a row in one list, beside it each image's height and width."""

from collections.abc import Mapping, Sequence

import numpy as np

from .tiny import Inputs, Row, TinyFamily, noise, words

_IMAGE = 120
_MERGE = 2
SHAPES: Sequence[Sequence[tuple[int, int]]] = (((4, 4),), ((4, 6), (2, 4)), ())


def _listed_rows(generator: np.random.Generator, *, patch: Sequence[int], shapes_name: str) -> list[Row]:
    """Make a row for each sequence of shapes.

    Args:
        generator: Draws words and pixels.
        patch: The shape of one patch.
        shapes_name: Under which the processor gives heights and widths, in patches.
    """
    rows = []
    for number, shapes in enumerate(SHAPES):
        tokens = words(generator, 2)
        inputs: Inputs = {}
        for height, width in shapes:
            tokens += [_IMAGE] * (height * width // _MERGE**2) + words(generator, 2)
        if shapes:
            count = sum(height * width for height, width in shapes)
            inputs = {"pixel_values": noise(generator, count, *patch), shapes_name: np.array(shapes, dtype=np.int32)}
        n_answer = 4 + number
        tokens += words(generator, 5 + 3 * number + n_answer)
        rows.append(Row(tokens=tokens, n_answer=n_answer, inputs=inputs, image_tokens=frozenset([_IMAGE])))
    return rows


def _locate_rows(generator: np.random.Generator) -> list[Row]:
    return _listed_rows(generator, patch=(3, 14, 14), shapes_name="image_grid_hws")


def _youtu_rows(generator: np.random.Generator) -> list[Row]:
    return _listed_rows(generator, patch=(3 * 4 * 4,), shapes_name="spatial_shapes")


FAMILIES: Mapping[str, TinyFamily] = {
    "locateanything": TinyFamily(
        config={
            "model_type": "locateanything",
            "image_token_index": _IMAGE,
            "vocab_size": 128,
            "text_config": {
                "model_type": "qwen2",
                "hidden_size": 64,
                "intermediate_size": 96,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "vocab_size": 128,
                "rope_theta": 10000.0,
                "text_mask_token_id": 121,
                "null_token_id": 122,
                "switch_token_id": 123,
            },
            "vision_config": {
                "model_type": "moonvit",
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "init_pos_emb_height": 8,
                "init_pos_emb_width": 8,
            },
        },
        rows=_locate_rows,
    ),
    "youtu_vl": TinyFamily(
        config={
            "model_type": "youtu_vl",
            "image_token_id": _IMAGE,
            "video_token_id": 121,
            "vocab_size": 128,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "kv_lora_rank": 32,
            "q_lora_rank": 32,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 16,
            "v_head_dim": 16,
            "max_position_embeddings": 512,
            "vision_config": {
                "model_type": "siglip2_vision_model",
                "hidden_size": 32,
                "out_hidden_size": 64,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "patch_size": 4,
                # Two by two merged patches are a window, which only the first layer has.
                "window_size": 16,
                "fullatt_block_indexes": [1],
            },
        },
        rows=_youtu_rows,
    ),
}
