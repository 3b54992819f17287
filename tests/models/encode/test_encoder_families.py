"""Rows of families without a checkpoint of their own, through their processors on another family's tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlx_vlm.models.deepseekocr.processing_deepseekocr import DeepseekOCRProcessor
from mlx_vlm.models.deepseekocr_2.processing_deepseekocr import DeepseekOCR2Processor
from mlx_vlm.models.falcon_ocr.processing_falcon_ocr import FalconOCRProcessor, make_ocr_prompt
from mlx_vlm.models.fastvlm.processing import FastVLMImageProcessor, FastVLMProcessor
from mlx_vlm.models.got.processing_got import GotOcrImageProcessor, GotOcrProcessor, build_got_prompt
from mlx_vlm.models.internvl_chat.processor import InternVLChatProcessor, InternVLImageProcessor
from mlx_vlm.models.jina_vlm.processing_jinavlm import JinaVLMProcessor
from mlx_vlm.models.kimi_k25.processing_kimi_k25 import KimiK25ImageProcessor, KimiK25Processor
from mlx_vlm.models.molmo2.processing import Molmo2Processor
from mlx_vlm.models.molmo_point.processing_molmo_point import MolmoPointProcessor
from mlx_vlm.models.phi4_siglip.processing_phi4_siglip import Phi4SigLipProcessor
from mlx_vlm.models.phi4mm.processing_phi4mm import Phi4MMImageProcessor, Phi4MMProcessor
from mlx_vlm.models.plamo2vl.processing import Plamo2VLProcessor
from mlx_vlm.models.unlimited_ocr.processing_unlimitedocr import UnlimitedOCRProcessor
from PIL import Image
from transformers import AutoTokenizer

from vlora import models
from vlora.models.encode.encoder import Encoder
from vlora.recipe.schema import DataSection
from vlora.types import ImageSlot, Sample, Turn

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<img>", "</img>", "<imgpad>", "<IMG_CONTEXT>", "<|image|>", "<|media_pad|>", "<plamo:image>"]
SPECIAL += ["<siglip2:img>", "</siglip2:img>", "<|OCR_PLAIN|>", "<low_res_im_start>", "<im_start>", "<im_end>"]
SPECIAL += ["<im_patch>", "<im_low>", "<im_col>"]
OPTIONS = {"candidate_resolutions": ((1024, 1024),), "patch_size": 16, "downsample_ratio": 4}
PATCHES = {"patch_size": 4, "max_num_patches": 24, "min_num_patches": 4}


class _Tiles:
    """SigLIP's image processor as PLaMo 2 needs it; the real one needs torchvision."""

    size = {"width": 28, "height": 28}  # noqa: RUF012 - as the real one has it
    patch_size, max_image_width, max_image_height, downsample_ratio, tile_context_length = 14, 96, 96, 1.0, 1000

    def __call__(self, images: list[Image.Image], **_: Any) -> dict[str, Any]:
        return {"pixel_values": np.stack([np.asarray(image, np.float32).transpose(2, 0, 1) for image in images])}


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
MAKE |= {
    "falcon_ocr": lambda tokenizer: FalconOCRProcessor(
        tokenizer, {"img_id": tokenizer.convert_tokens_to_ids("<|image|>")}
    ),
    "plamo2vl": lambda tokenizer: Plamo2VLProcessor(_Tiles(), tokenizer),
    "molmo2": lambda tokenizer: Molmo2Processor(None, tokenizer, chat_template=CHATML.replace("<image>", "<|image|>")),
    "molmo_point": MolmoPointProcessor,
}
TWO_IMAGES = ("kimi_k25", "unlimited_ocr", "fastvlm", "phi4_siglip", "phi4mm", "internvl_chat")


def make(family: str, folder: Path) -> Encoder:
    """Make a family's encoder on the tokenizer of the tiny Qwen2-VL."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHATML.replace("<image>", "<|image|>") if family == "molmo_point" else CHATML
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    if family.endswith(("ocr", "ocr_2")):
        tokenizer.bos_token = tokenizer.convert_ids_to_tokens(0)  # the id that its processors write
    processor = MAKE[family](tokenizer)
    return models.make_encoder(
        processor, {}, models.describe_family(family), DataSection(path="rows", train_on_completions=True)
    )


@pytest.mark.parametrize("family", MAKE)
def test_answers_and_images(family: str, checkpoint: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
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
    if encode.image_id == -200 and family in ("fastvlm", "phi4_siglip", "phi4mm"):
        assert np.array_equal(example.placeholders, example.tokens == -200)
    assert "pixel_values" in example.inputs


def test_internvl_has_its_tokenizers_template(checkpoint: Callable[[str], Path]) -> None:
    """Answers end with the end of a turn, and are asked for as they were learned."""
    encode = make("internvl_chat", checkpoint("qwen2_vl"))
    asked = Sample("row", (Turn("user", ("Well?",)),), ())
    learned = encode(Sample("row", (*asked.turns, Turn("assistant", ("Yes.",))), ()))

    assert encode.tokenizer.decode(learned.tokens).startswith(encode.render(asked, add_generation_prompt=True))
    assert encode.tokenizer.decode(learned.tokens[learned.supervised]) == "Yes.<|im_end|>"


def test_prompts_are_those_of_the_processors(checkpoint: Callable[[str], Path]) -> None:
    """Where a processor writes its own prompt around a question, that prompt is learned."""
    asked = "Extract the text content from this image."
    question = Sample("row", (Turn("user", (ImageSlot(0), asked)),), ())
    expected = {
        "got": build_got_prompt(asked),
        "falcon_ocr": make_ocr_prompt("plain"),
        "plamo2vl": Plamo2VLProcessor(_Tiles(), None).format_prompt(asked, 1),
    }
    encoders = {family: make(family, checkpoint("qwen2_vl")) for family in expected}
    found = {family: encode.render(question, add_generation_prompt=True) for family, encode in encoders.items()}

    assert found == expected
    assert encoders["falcon_ocr"].prompt(question) == asked


def test_conversations_of_molmo_point_open_with_the_end_token(checkpoint: Callable[[str], Path]) -> None:
    """They begin with one token that otherwise ends them, with images and without."""
    encode = make("molmo_point", checkpoint("qwen2_vl"))
    turns = (Turn("user", ("Well?",)), Turn("assistant", ("Yes.",)))
    opening = encode.tokenizer.eos_token_id
    plain = encode(Sample("row", turns, ()))
    shown = encode(Sample("row", (Turn("user", (ImageSlot(0), "Well?")), turns[1]), (Image.new("RGB", (40, 30)),)))

    for example in (plain, shown):
        assert example.tokens[0] == opening
        assert example.tokens[1] != opening
        assert not example.supervised[0]
