"""Conversations that the tests of encoding share, and what families make of them."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.checkpoints import FAMILIES as BUILT
from vlora import Example, Sample, Turn
from vlora.models import Encoder
from vlora.types import ImageSlot


def picture(seed: int = 0, width: int = 48, height: int = 32) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def sample_of(*turns: tuple[str, ...], images: tuple[Any, ...] = ()) -> Sample:
    """Make a sample of (role, parts...); a part "<>" is the place of the next image."""
    numbers = iter(range(len(images)))
    return Sample(
        "rows row 3",
        tuple(
            Turn(role, tuple(ImageSlot(next(numbers)) if part == "<>" else part for part in parts))
            for role, *parts in turns
        ),
        images,
    )


BOS_BY_TOKENIZER = ("llava", "llava_next", "idefics2", "deepseek_vl_v2")  # their templates write none


PREFIX_LANGUAGE_MODELS = ("paligemma", "paligemma2")  # no conversations; tests/models/families/test_gemma.py has them


FAMILIES = {name: spec for name, spec in BUILT.items() if name not in PREFIX_LANGUAGE_MODELS}


every_family = pytest.mark.parametrize("family", FAMILIES)


TWO_TURNS = (("user", "<>", "\n", "<>", "\nWhich is larger?"), ("assistant", "The second."))


TWO = sample_of(
    *TWO_TURNS,
    images=(picture(0), picture(1, width=32, height=64)),
)


def own_ids(family: str, encode: Encoder, text: str, images: tuple[Image.Image, ...]) -> list[int]:
    """Give the ids that the family's processor makes of a rendered text, called as its own programs call it."""
    bos = encode.tokenizer.bos_token or ""
    if family in BOS_BY_TOKENIZER:
        text, options = text.removeprefix(bos), {}
    else:
        options = {} if family == "llava_onevision" else {"add_special_tokens": False}
    outputs = (
        encode.processor(text=text, images=list(images), **options) if images else encode.tokenizer(text, **options)
    )
    return np.array(outputs["input_ids"]).reshape(-1).tolist()


ONE = sample_of(("user", "<>", "What is in the image?"), ("assistant", "A red square."), images=(picture(),))


LONG = sample_of(
    ("user", "<>", "What is it?"),
    ("assistant", "A house."),
    ("user", "And the other?"),
    ("assistant", "A field under the sky."),
    ("user", "Are there more?"),
    ("assistant", "No."),
    images=(picture(),),
)


END_OF_TURN = {
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5"), "<|im_end|>"),
    **dict.fromkeys(("idefics3", "smolvlm"), "<end_of_utterance>"),
    **dict.fromkeys(("pixtral", "mistral3", "llava_next"), "</s>"),
    "llava": "</s>",  # which its template does not write
    **dict.fromkeys(("llava_onevision", "internvl", "lfm2_vl", "kimi_vl"), "<|im_end|>"),
    "idefics2": "<end_of_utterance>",
    "aya_vision": "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
    "gemma3": "<end_of_turn>",
    "glm4v": "<|user|>",  # the next role ends an answer, and generation too; its template writes none after the last
    **dict.fromkeys(("gemma4", "gemma4_moe"), "<turn|>"),
    "mllama": "<|eot_id|>",
    "deepseek_vl_v2": "<\uff5cend\u2581of\u2581sentence\uff5c>",
}


# LLaVA's template writes one too, but its tokenizer drops it when it decodes.
LEAD = dict.fromkeys(("deepseek_vl_v2", "idefics3", "smolvlm"), " ")


REFUSES_SYSTEM = ("pixtral",)


TEXT = sample_of(("user", "Are there two?"), ("assistant", "Yes."))


def supervised_texts(example: Example, encode: Encoder) -> list[str]:
    """Decode each run of supervised tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], example.supervised, [False]])))
    return [
        encode.tokenizer.decode(example.tokens[start:stop]) for start, stop in zip(edges[::2], edges[1::2], strict=True)
    ]
