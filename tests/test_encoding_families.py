"""Rows of families without a checkpoint of their own, through their processors on another family's tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlx_vlm.models.deepseekocr.processing_deepseekocr import DeepseekOCRProcessor
from mlx_vlm.models.deepseekocr_2.processing_deepseekocr import DeepseekOCR2Processor
from mlx_vlm.models.fastvlm.processing import FastVLMImageProcessor, FastVLMProcessor
from mlx_vlm.models.internvl_chat.processor import InternVLChatProcessor, InternVLImageProcessor
from mlx_vlm.models.phi4_siglip.processing_phi4_siglip import Phi4SigLipProcessor
from mlx_vlm.models.phi4mm.processing_phi4mm import Phi4MMImageProcessor, Phi4MMProcessor
from PIL import Image
from transformers import AutoTokenizer

from vlora import backend
from vlora.backend.encoding import Encoder
from vlora.recipe import DataSection
from vlora.types import ImageSlot, Sample, Turn

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OPTIONS = {"candidate_resolutions": ((1024, 1024),), "patch_size": 16, "downsample_ratio": 4}
PATCHES = {"patch_size": 4, "max_num_patches": 24, "min_num_patches": 4}
MAKE: dict[str, Callable[[Any], Any]] = {
    "fastvlm": lambda tokenizer: FastVLMProcessor(FastVLMImageProcessor(), tokenizer, chat_template=CHATML),
    # Its own image processor needs torch; this one gives the same fields.
    "phi4_siglip": lambda tokenizer: Phi4SigLipProcessor(Phi4MMImageProcessor(**PATCHES), tokenizer),
    "phi4mm": lambda tokenizer: Phi4MMProcessor(Phi4MMImageProcessor(**PATCHES), tokenizer, chat_template=CHATML),
    "internvl_chat": lambda tokenizer: InternVLChatProcessor(
        InternVLImageProcessor(size=28), tokenizer, chat_template=CHATML, image_size=28
    ),
    "deepseekocr": lambda tokenizer: DeepseekOCRProcessor(tokenizer, **OPTIONS),
    "deepseekocr_2": lambda tokenizer: DeepseekOCR2Processor(tokenizer, **OPTIONS),
}
TWO_IMAGES = ("fastvlm", "phi4_siglip", "phi4mm", "internvl_chat")


def make(family: str, folder: Path) -> Encoder:
    """Make a family's encoder on the tokenizer of the tiny Qwen2-VL."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHATML
    tokenizer.add_special_tokens({"additional_special_tokens": ["<img>", "</img>", "<IMG_CONTEXT>"]})
    if family.startswith("deepseek"):
        tokenizer.bos_token = tokenizer.convert_ids_to_tokens(0)  # the id that its processors write
    processor = MAKE[family](tokenizer)
    return backend.make_encoder(
        processor, {}, backend.describe_family(family), DataSection(path="rows", train_on_completions=True)
    )


@pytest.mark.parametrize("family", MAKE)
def test_answers_and_images(family: str, checkpoint: Callable[[str], Path], capsys: pytest.CaptureFixture[str]):
    """The answer is supervised and nothing else; what stands for an image is marked; the rest is the template's."""
    encode = make(family, checkpoint("qwen2_vl"))
    capsys.readouterr()
    images = tuple(Image.new("RGB", (20, 16 + 8 * index), "red") for index in range(1 + (family in TWO_IMAGES)))
    question = Turn("user", (*(ImageSlot(index) for index in range(len(images))), "What is it?"))
    example = encode(Sample("row", (question, Turn("assistant", ("A red square.",))), images))
    text = encode.tokenizer.decode([token for token in example.tokens[~example.placeholders] if token >= 0])

    assert "A red square." in encode.tokenizer.decode(example.tokens[example.supervised])
    assert "What" not in encode.tokenizer.decode(example.tokens[example.supervised])
    assert "What is it?" in text
    assert "<image>" not in text
    assert example.placeholders.sum() >= len(images)
    if encode.image_id == -200 and family != "internvl_chat":
        assert np.array_equal(example.placeholders, example.tokens == -200)
    assert "pixel_values" in example.inputs
