"""Rows with boxes, and what is learned of them."""

from typing import Any

from vlora import models
from vlora.data.format.boxes import (
    read_objects,
)
from vlora.types import ImageSlot, Sample, Turn

SOURCE = "rows row 3"


def sample_of(image: Any, objects: Any, answer: str = "At <bbox>.") -> Sample:
    turns = (Turn("user", (ImageSlot(0), "Where?")), Turn("assistant", (answer,)))
    return Sample(SOURCE, turns, (image,), objects=read_objects(objects, SOURCE))


def learned(encode: models.Encoder, sample: Sample) -> str:
    example = encode(sample)
    return encode.tokenizer.decode(example.tokens[example.supervised])


BOX = {"bbox": [[10, 10, 50, 40]]}
