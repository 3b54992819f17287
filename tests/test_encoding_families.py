"""Rows of families without a checkpoint of their own, through their processors on another family's tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlx_vlm.models.deepseekocr.processing_deepseekocr import DeepseekOCRProcessor
from mlx_vlm.models.deepseekocr_2.processing_deepseekocr import DeepseekOCR2Processor
from mlx_vlm.models.fastvlm.processing import FastVLMImageProcessor, FastVLMProcessor
from mlx_vlm.models.got.processing_got import GotOcrImageProcessor, GotOcrProcessor
from mlx_vlm.models.internvl_chat.processor import InternVLChatProcessor, InternVLImageProcessor
from mlx_vlm.models.jina_vlm.processing_jinavlm import JinaVLMProcessor
from mlx_vlm.models.kimi_k25.processing_kimi_k25 import KimiK25ImageProcessor, KimiK25Processor
from mlx_vlm.models.phi4_siglip.processing_phi4_siglip import Phi4SigLipProcessor
from mlx_vlm.models.phi4mm.processing_phi4mm import Phi4MMImageProcessor, Phi4MMProcessor
from mlx_vlm.models.unlimited_ocr.processing_unlimitedocr import UnlimitedOCRProcessor
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
SPECIAL = ["<img>", "</img>", "<imgpad>", "<IMG_CONTEXT>", "<|image|>", "<|media_pad|>"]
OPTIONS = {"candidate_resolutions": ((1024, 1024),), "patch_size": 16, "downsample_ratio": 4}
PATCHES = {"patch_size": 4, "max_num_patches": 24, "min_num_patches": 4}
MAKE: dict[str, Callable[[Any], Any]] = {
    "fastvlm": lambda tokenizer: FastVLMProcessor(FastVLMImageProcessor(), tokenizer, chat_template=CHATML),
    # Its own image processor needs torch; this one gives the same fields.
    "phi4_siglip": lambda tokenizer: Phi4SigLipProcessor(Phi4MMImageProcessor(**PATCHES), tokenizer),
    "phi4mm": lambda tokenizer: Phi4MMProcessor(Phi4MMImageProcessor(**PATCHES), tokenizer, chat_template=CHATML),
    "internvl_chat": lambda tokenizer: InternVLChatProcessor(InternVLImageProcessor(size=28), tokenizer, image_size=28),
    "deepseekocr": lambda tokenizer: DeepseekOCRProcessor(tokenizer, **OPTIONS),
    "deepseekocr_2": lambda tokenizer: DeepseekOCR2Processor(tokenizer, **OPTIONS),
}
MAKE |= {
    "got": lambda tokenizer: GotOcrProcessor(GotOcrImageProcessor(image_size=64), tokenizer),
    "jina_vlm": lambda tokenizer: JinaVLMProcessor(tokenizer, chat_template=CHATML.replace("<image>", "<|image|>")),
    "kimi_k25": lambda tokenizer: KimiK25Processor(
        KimiK25ImageProcessor(), tokenizer, chat_template=CHATML.replace("<image>", "<|media_pad|>")
    ),
    "unlimited_ocr": UnlimitedOCRProcessor,
}
TWO_IMAGES = ("kimi_k25", "unlimited_ocr", "fastvlm", "phi4_siglip", "phi4mm", "internvl_chat")


def make(family: str, folder: Path) -> Encoder:
    """Make a family's encoder on the tokenizer of the tiny Qwen2-VL."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHATML
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    if family.endswith(("ocr", "ocr_2")):
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
    if encode.image_id == -200 and family not in ("internvl_chat", "got"):
        assert np.array_equal(example.placeholders, example.tokens == -200)
    assert "pixel_values" in example.inputs


def test_internvl_has_its_tokenizers_template(checkpoint: Callable[[str], Path]):
    """Answers end with the end of a turn, and are asked for as they were learned."""
    encode = make("internvl_chat", checkpoint("qwen2_vl"))
    asked = Sample("row", (Turn("user", ("Well?",)),), ())
    learned = encode(Sample("row", (*asked.turns, Turn("assistant", ("Yes.",))), ()))

    assert encode.tokenizer.decode(learned.tokens).startswith(encode.render(asked, add_generation_prompt=True))
    assert encode.tokenizer.decode(learned.tokens[learned.supervised]) == "Yes.<|im_end|>"
