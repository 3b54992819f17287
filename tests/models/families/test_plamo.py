"""PLaMo 2's rows: its processor without the prompt that it writes around every text."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from vlora.models.families.plamo import process_plamo2


def test_text_is_not_prompted_twice() -> None:
    """The conversation is tokenized as it is written, images cut into the processor's own tiles."""
    asked: list[Any] = []

    def split(text: str, images: list[Image.Image]) -> tuple[str, list[Image.Image]]:
        asked.append((text, len(images)))
        return text.replace("<plamo:image>", "##"), images * 2

    def tokenize(text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [ord(letter) for letter in text]}

    processor = SimpleNamespace(
        _split_images_into_tiles=split,
        tokenizer=tokenize,
        image_processor=lambda images, return_tensors: {"pixel_values": [[return_tensors == "np"]] * len(images)},
    )
    found = process_plamo2(processor, "a<plamo:image>b", [Image.new("RGB", (4, 4))])

    assert asked == [("a<plamo:image>b", 1)]
    assert "".join(map(chr, found["input_ids"])) == "a##b"
    np.testing.assert_array_equal(found["pixel_values"], [[True], [True]])
