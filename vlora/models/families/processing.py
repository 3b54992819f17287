"""Processors that write their own prompt around whatever they are given, run on a conversation that is written already.

Each function takes (processor, text with one BOS, images) and gives the processor's outputs. Versions and lines:
mlx-vlm 0.7.10.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image


def process_falcon_ocr(processor: Any, text: str, images: list[Image.Image]) -> Mapping[str, Any]:
    """Run Falcon-OCR's processor but for its prompt, one of a few by name (processing_falcon_ocr.py:31)."""
    from mlx_vlm.models.falcon_ocr.processing_falcon_ocr import preprocess_image

    read = [preprocess_image(image.convert("RGB"), processor.spatial_patch_size) for image in images]
    grids = [[height, width] for _, height, width in read]
    plain = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return {
        "input_ids": processor._expand_image_tokens(plain, grids),  # noqa: SLF001 - the family's own
        "pixel_values": np.stack([pixels for pixels, _, _ in read]),
        "image_grid_hw": np.array(grids, dtype=np.int32),
    }


def process_plamo2(processor: Any, text: str, images: list[Image.Image]) -> Mapping[str, Any]:
    """Run PLaMo 2's processor but for its prompt, written around every text (plamo2vl/processing.py, `process`)."""
    written, tiles = processor._split_images_into_tiles(text, images)  # noqa: SLF001 - the family's own
    return {
        "input_ids": processor.tokenizer(written, add_special_tokens=False)["input_ids"],
        "pixel_values": np.array(processor.image_processor(images=tiles, return_tensors="np")["pixel_values"]),
    }
