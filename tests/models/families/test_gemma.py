"""What mlx-vlm computes otherwise than Gemma's published models, and that vlora does not.

Lines are those of mlx-vlm 0.7.10. The numbers themselves are compared with transformers' in tests/golden.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from PIL import Image

from vlora import Example, collate, format_sample, models
from vlora.errors import SampleError
from vlora.models import Encoder
from vlora.models.forward.attention_masks import block_mask
from vlora.recipe.schema import ModelSection

Checkpoint = Callable[[str], Path]
Encoding = Callable[..., Encoder]


def picture(seed: int, width: int = 48, height: int = 32) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def refused(encode: Encoder, row: dict[str, Any]) -> str:
    with pytest.raises(SampleError) as caught:
        encode(format_sample(row, "rows row 3"))
    return str(caught.value)


def encode_row(encoder: Encoder, n_images: int, question: str = "What is it?", answer: str = "a red square") -> Example:
    text = "<image>" * n_images + question
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    images = [picture(seed) for seed in range(n_images)]
    return encoder(format_sample({"images": images, "messages": messages} if images else {"messages": messages}))


def open_backbone(folder: Path) -> models.MlxVlmBackbone:
    section = ModelSection(path=str(folder))
    return models.load_backbone(models.find_model(section), section)[0]


def logits_of(backbone: models.MlxVlmBackbone, example: Example) -> mx.array:
    batch = collate([example])
    with backbone.overrides():
        return backbone.all_logits(batch.tokens, *backbone.embed_rows(batch))[0, : len(example.tokens) - 1]


def watch_masks(backbone: models.MlxVlmBackbone) -> list[np.ndarray]:
    """Note the mask that each layer's attention is called with from now on, bool[T, T]."""
    masks: list[np.ndarray] = []

    def watching(cls: type) -> type:
        def call(self: nn.Module, x: mx.array, mask: mx.array, *rest: object, **others: object) -> object:
            masks.append(np.array(mask[0, 0]))
            return cls.__call__(self, x, mask, *rest, **others)

        return type("Watching", (cls,), {"__call__": call})

    for layer in backbone.module.language_model.model.layers:
        layer.self_attn.__class__ = watching(type(layer.self_attn))
    return masks


# ---------------------------------------------------------------------------------------------
# Masks


def test_block_mask() -> None:
    """Tokens of one block see each other, all see what is before them, and a window bounds both."""
    blocks = mx.array([[0, 1, 1, 1, 0, 2, 2]])
    place = np.arange(7)
    distance = place[:, None] - place[None]
    same = (np.array(blocks[0])[:, None] == np.array(blocks[0])) & (np.array(blocks[0]) > 0)

    assert np.array_equal(block_mask(blocks)[0, 0], (distance >= 0) | same)
    assert np.array_equal(block_mask(blocks, 2)[0, 0], ((distance >= 0) | same) & (distance < 2))
    assert np.array_equal(block_mask(blocks, 2, whole_blocks=True)[0, 0], ((distance >= 0) & (distance < 2)) | same)


# ---------------------------------------------------------------------------------------------
# Gemma 3


def test_text_around_an_image(encoder: Encoding) -> None:
    """The processor's line breaks around an image join with the text's, and none of this is learned."""
    encode = encoder("gemma3")
    example = encode_row(encode, 2)
    image = "<start_of_image>" + "<image_soft_token>" * 16 + "<end_of_image>"

    text = encode.tokenizer.decode(example.tokens)
    breaks = encode.tokenizer.convert_tokens_to_ids(["\n\n", "\n\n\n", "\n\n\n\n"])
    assert text.startswith(f"<bos><start_of_turn>user\n\n\n{image}\n\n\n\n{image}\n\nWhat is it?<end_of_turn>")
    assert [token for token in example.tokens if token in breaks] == [breaks[1], breaks[2], breaks[0]]
    marked = encode.tokenizer.convert_tokens_to_ids(["<start_of_image>", "<image_soft_token>", "<end_of_image>"])
    assert not example.supervised[np.isin(example.tokens, marked)].any()


def test_scale_of_embeddings(checkpoint: Checkpoint, encoder: Encoding) -> None:
    """Text is scaled by the root of the width, not rounded to bfloat16 (gemma3/language.py:210), images not at all.

    mlx-vlm's images are too large by the root of the width over that of 2048 (gemma3/gemma3.py:139).
    """
    backbone = open_backbone(checkpoint("gemma3"))
    module, example = backbone.module, encode_row(encoder("gemma3"), 1)
    pixels = mx.array(example.inputs["pixel_values"])
    features = module.multi_modal_projector(module.vision_tower(pixels.transpose(0, 2, 3, 1))[0])
    embeds = backbone.embed(collate([example]))[0]["inputs_embeds"][0, : len(example.tokens) - 1]
    tokens = example.tokens[:-1]
    seen: list[mx.array] = []

    class Watching(type(module.language_model.model.layers[0])):  # type: ignore[misc]
        def __call__(self, hidden: mx.array, *rest: object) -> mx.array:
            seen.append(hidden)
            return super().__call__(hidden, *rest)

    first = module.language_model.model.layers[0]
    first.__class__ = Watching
    logits_of(backbone, example)

    is_image = tokens == module.config.image_token_index
    text = module.language_model.model.embed_tokens(mx.array(tokens)) * np.float32(96**0.5)
    np.testing.assert_allclose(np.array(embeds)[~is_image], np.array(text)[~is_image], rtol=1e-6)
    np.testing.assert_allclose(np.array(embeds)[is_image], np.array(features[0]), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.array(seen[-1][0, : len(tokens)]), np.array(embeds))
    rounded = float(mx.array(96**0.5, mx.bfloat16).astype(mx.float32))
    assert abs(rounded / 96**0.5 - 1) > 1e-3
    assert module.language_model.model.scale_inputs_embeds


def test_layers_of_gemma3_have_masks_of_their_own(checkpoint: Checkpoint, encoder: Encoding) -> None:
    """A sliding layer sees its window only, a full layer all; within an image both look ahead.

    mlx-vlm gives all layers one mask, and one that is not causal (gemma3/gemma3.py:169, gemma3/language.py:234).
    """
    backbone = open_backbone(checkpoint("gemma3"))
    example = encode_row(encoder("gemma3"), 1)
    masks = watch_masks(backbone)
    logits_of(backbone, example)

    places = np.flatnonzero(example.tokens == backbone.module.config.image_token_index)
    assert len(masks) == 4
    first, last = places[0], places[-1]
    for number, mask in enumerate(masks):
        assert mask[first, last]
        assert not mask[first - 1, first]
        assert not mask[last, last + 1]
        assert mask[last, first] == (number % 2 == 1)
        assert mask[-1, -9] == (number % 2 == 1)


# ---------------------------------------------------------------------------------------------
# Gemma 4


# ---------------------------------------------------------------------------------------------
# PaliGemma


# ---------------------------------------------------------------------------------------------
# Gemma 3n
