"""PLaMo. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from ..forward.merging import merge_features
from .family import STATES, Family, Format, Forward
from .pieces import IMAGES_THEN_TEXT, ONE_QUESTION

PLAMO2_TEMPLATE = ONE_QUESTION.replace(
    "QUESTION",
    "{{ '以下はタスクを説明する指示で、文脈を説明"
    "した入力とペアになっています。要求を適切に"
    "補完するよう応答を書いてください。\n\n### 指示:\n' }}" + IMAGES_THEN_TEXT + "{{ '\n\n### 応答:\n' }}",
)
"""The prompt that PLaMo 2's processor writes around a question (plamo2vl/processing.py, `_apply_ja01_template`)."""


def process_plamo2(processor: Any, text: str, images: list[Image.Image]) -> Mapping[str, Any]:
    """Run PLaMo 2's processor without the prompt that it writes around texts (plamo2vl/processing.py, `process`)."""
    written, tiles = processor._split_images_into_tiles(text, images)  # noqa: SLF001 - the family's own
    return {
        "input_ids": processor.tokenizer(written, add_special_tokens=False)["input_ids"],
        "pixel_values": np.array(processor.image_processor(images=tiles, return_tensors="np")["pixel_values"]),
    }


FAMILIES: Mapping[str, Family] = {
    "plamo2vl": Family(
        format=Format(template=PLAMO2_TEMPLATE, image_mark="<plamo:image>", image_id=-200, process=process_plamo2),
        forward=Forward(embed_overrides=merge_features, equal_prompts=STATES),
    ),
}
