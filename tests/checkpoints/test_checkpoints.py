"""The tiny checkpoints are what they claim: real classes, matching tokens, images that matter."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_vlm
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_vlm.models.base import InputEmbeddingsFeatures
from PIL import Image

from tests.arrays import load_arrays
from tests.checkpoints import FAMILIES, build_checkpoint
from vlora.models.families.paligemma import embed_paligemma
from vlora.models.families.tiles import embed_llava_next

# Family: the processor a user gets, and how many placeholders an image of 48 x 32 pixels becomes.
EXPECTED = {
    "qwen2_vl": ("Qwen2VLProcessor", 6),
    "qwen2_5_vl": ("Qwen2_5_VLProcessor", 6),
    "qwen3_vl": ("Qwen3VLProcessor", 6),
    "qwen3_vl_moe": ("Qwen3VLProcessor", 6),
    "llava": ("LlavaProcessor", 16),
    "pixtral": ("PixtralProcessor", 24),
    "mistral3": ("Mistral3Processor", 6),
    "mllama": ("MllamaProcessor", 1),
    "deepseek_vl_v2": ("DeepseekVLV2Processor", 17),
    "idefics3": ("Idefics3Processor", 20),
    "smolvlm": ("SmolVLMProcessor", 20),
    "llava_next": ("LlavaNextProcessor", 44),
    "llava_onevision": ("LlavaOnevisionProcessor", 44),
    "idefics2": ("Idefics2Processor", 20),
    "internvl": ("InternVLProcessor", 4),
    "aya_vision": ("AyaVisionOutputProcessor", 12),
    "lfm2_vl": ("Lfm2VlProcessor", 2),
    "kimi_vl": ("KimiVLProcessor", 1),
    "qwen3_5": ("Qwen3VLProcessor", 6),
    "glm4v": ("Glm46VProcessor", 6),
    "gemma3": ("Gemma3Processor", 16),
    "gemma4": ("Gemma4Processor", 60),
    "gemma4_moe": ("Gemma4Processor", 60),
    "paligemma": ("PaliGemmaProcessor", 16),
    "paligemma2": ("PaliGemmaProcessor", 16),
}
OF_TRANSFORMERS = ("lfm2_vl",)  # whose processor mlx-vlm changes in place
WITHOUT_OPTIONS = ("llava", "llava_next", "llava_onevision", "idefics2")  # only the tokenizer writes their BOS, if any
WITHOUT_TEMPLATE = ("paligemma", "paligemma2")  # and without rows of text alone
WITHOUT_BOS = ("kimi_vl",)  # it names a BOS token that nothing writes
STRING_ANSWERS = ("pixtral", "mistral3", "deepseek_vl_v2", "glm4v")


def picture(seed: int, width: int = 48, height: int = 32) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def render(family: str, processor: Any, n_images: int) -> str:
    question, answer = "What is in the image?", "A red square."
    if family in WITHOUT_TEMPLATE:
        return "<image>" * n_images + question
    content: Any = [{"type": "image"}] * n_images + [{"type": "text", "text": question}]
    if family == "deepseek_vl_v2":
        content = "<image>\n" * n_images + question
    reply: Any = answer if family in STRING_ANSWERS else [{"type": "text", "text": answer}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": reply}]
    owner = processor if getattr(processor, "chat_template", None) else processor.tokenizer
    return owner.apply_chat_template(messages, tokenize=False)


def encode(family: str, processor: Any, text: str, images: list[Image.Image] | None) -> dict[str, Any]:
    options = {"add_special_tokens": False}
    if family in WITHOUT_OPTIONS:
        options = {}
    if family == "deepseek_vl_v2":
        images = images or []
    elif images is None:
        ids = mx.array([processor.tokenizer(text, **options)["input_ids"]])
        return {"input_ids": ids, "attention_mask": mx.ones_like(ids)}
    fields = dict(processor(text=text, images=images, **options))
    if "images_spatial_crop" in fields:
        # deepseek_vl_v2 reads one crop per tile, up to the first zero; the processor gives one
        # per image, so without this the model reads out of bounds.
        missing = fields["images"].shape[1] - fields["images_spatial_crop"].shape[1]
        crops = fields["images_spatial_crop"].astype(mx.int32)
        fields["images_spatial_crop"] = mx.pad(crops, [(0, 0), (0, missing), (0, 0)])
        fields["pixel_values"] = fields.pop("images")
    for name, value in fields.items():
        if isinstance(value, list) and len({np.shape(part) for part in value}) > 1:
            fields[name] = [mx.array(part) for part in value]
        elif isinstance(value, np.ndarray) or name in ("input_ids", "attention_mask", "pixel_values"):
            fields[name] = value if isinstance(value, mx.array) else mx.array(np.array(value))
    return {name: value for name, value in fields.items() if isinstance(value, (mx.array, list))}


def image_id(model: Any, processor: Any) -> int:
    sources = ((processor, "image_token_id"), (model.config, "image_token_index"), (model.config, "image_token_id"))
    return next(value for source, name in sources if (value := getattr(source, name, None)) is not None)


def forward(model: Any, fields: dict[str, Any]) -> tuple[Any, mx.array]:
    fields = {name: value for name, value in fields.items() if name != "labels"}
    ids, mask = fields.pop("input_ids"), fields.pop("attention_mask")
    if model.config.model_type == "llava_next":
        # The model's own puts a whole tile in the place of each image token.
        model.config.image_grid_pinpoints = FAMILIES["llava_next"].files["config.json"]["image_grid_pinpoints"]
        features = InputEmbeddingsFeatures(**embed_llava_next(model, ids, fields))
    elif model.config.model_type == "paligemma":
        # The model's own takes one image, and puts it at the row's beginning.
        features = InputEmbeddingsFeatures(inputs_embeds=embed_paligemma(model, ids, fields)["inputs_embeds"])
    else:
        features = model.get_input_embeddings(ids, fields.pop("pixel_values", None), mask=mask, **fields)
    found = {name: value for name, value in features.to_dict().items() if value is not None}
    return features, model.language_model(ids, mask=None, cache=None, **found).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpoint_is_real(family: str, tmp_path: Path) -> None:
    """A user's own load gives the real classes, and each placeholder gets one image feature."""
    folder = build_checkpoint(family, tmp_path / family)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2_000_000
    model, processor = mlx_vlm.load(str(folder))
    processor_name, n_placeholders = EXPECTED[family]
    kind = model.config.model_type
    assert type(model).__module__ == f"mlx_vlm.models.{kind}.{kind}"
    assert type(processor).__name__ == processor_name
    owner = "transformers" if family in OF_TRANSFORMERS else "mlx_vlm"
    assert type(processor).__module__.startswith(f"{owner}.models.")

    saved = load_arrays(folder / "model.safetensors")
    loaded = FAMILIES[family].publish(dict(tree_flatten(model.parameters())))
    assert saved.keys() == loaded.keys()
    assert all(mx.array_equal(saved[name], loaded[name]) for name in saved)

    text = render(family, processor, 1)
    fields = encode(family, processor, text, [picture(0)])
    ids = fields["input_ids"]
    placeholders = ids == image_id(model, processor)
    assert placeholders.sum().item() == n_placeholders
    bos = processor.tokenizer.bos_token_id
    if family in WITHOUT_BOS:
        assert not (ids == bos).any().item()
    elif bos is not None:
        assert (ids[0, 0].item() == bos) == (family not in WITHOUT_TEMPLATE)
        assert (ids == bos).sum().item() == 1

    features, logits = forward(model, fields)
    vocabulary = model.config.text_config.vocab_size
    assert logits.shape == (1, ids.shape[1], vocabulary)
    assert mx.isfinite(logits).all().item()
    beyond_head = ids.max().item() >= vocabulary
    assert beyond_head == (family == "mllama")
    plain = forward(model, {"input_ids": ids, "attention_mask": mx.ones_like(ids)})[0].inputs_embeds
    replaced = mx.any(features.inputs_embeds != plain, axis=-1)
    if family == "mllama":
        assert not replaced.any().item()
        assert features.cross_attention_states.shape == (1, 4 * 17, 64)
    else:
        assert mx.array_equal(replaced, placeholders)

    _, other = forward(model, encode(family, processor, text, [picture(1)]))
    assert float(mx.abs(other - logits).max()) > 0.1
    if family in WITHOUT_TEMPLATE:
        return
    _, text_only = forward(model, encode(family, processor, render(family, processor, 0), None))
    assert mx.isfinite(text_only).all().item()


@pytest.mark.parametrize("family", FAMILIES)
def test_two_images_of_different_sizes(family: str, tmp_path: Path) -> None:
    """One row may hold two images of different sizes."""
    model, processor = mlx_vlm.load(str(build_checkpoint(family, tmp_path)))
    images = [picture(0), picture(1, width=32, height=64)]
    text = render(family, processor, 2)
    fields = encode(family, processor, text, images)
    features, logits = forward(model, fields)
    assert mx.isfinite(logits).all().item()
    if family != "mllama":
        fields_text = {name: fields[name] for name in ("input_ids", "attention_mask")}
        replaced = mx.any(features.inputs_embeds != forward(model, fields_text)[0].inputs_embeds, axis=-1)
        assert mx.array_equal(replaced, fields["input_ids"] == image_id(model, processor))


@pytest.mark.parametrize("family", FAMILIES)
def test_same_call_writes_same_bytes(family: str, tmp_path: Path) -> None:
    """Only the seed changes a checkpoint, and only its weights."""
    first, again, other = (
        build_checkpoint(family, tmp_path / name, seed=seed)
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    for file in first.iterdir():
        assert file.read_bytes() == (again / file.name).read_bytes()
        same = file.read_bytes() == (other / file.name).read_bytes()
        assert same == (file.name != "model.safetensors")
