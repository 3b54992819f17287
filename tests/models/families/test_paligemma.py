"""Rows of PaliGemma, and what mlx-vlm computes otherwise than the published models."""

import attrs
import mlx.core as mx
import numpy as np
import pytest

from tests.models.families.test_gemma import (
    Checkpoint,
    Encoding,
    logits_of,
    open_backbone,
    picture,
    refused,
    watch_masks,
)
from vlora import collate, format_sample
from vlora.errors import ModelError


def test_prefix_and_suffix(encoder: Encoding) -> None:
    """A row is images, BOS, prompt, line break, answer, EOS; only what follows the line break is learned."""
    encode = encoder("paligemma", train_on_completions=True)
    row = {"images": [picture(0), picture(1, 32, 64)], "prefix": " answer en Well?", "suffix": "yes or\nno"}
    example = encode(format_sample(row))
    outputs = encode.processor(text="<image><image>answer en Well?", images=row["images"], suffix="yes or\nno")

    assert encode.tokenizer.decode(example.tokens) == "<image>" * 32 + "<bos>answer en Well?\nyes or\nno<eos>"
    assert encode.tokenizer.decode(example.tokens[example.supervised]) == "yes or\nno<eos>"
    assert example.tokens.tolist() == np.array(outputs["input_ids"])[0].tolist()
    types = example.inputs["token_type_ids"]
    assert types.tolist() == np.array(outputs["token_type_ids"]).tolist() == [example.supervised.astype(int).tolist()]
    assert example.placeholders.tolist() == (example.tokens == encode.image_id).tolist()
    np.testing.assert_array_equal(example.inputs["pixel_values"], np.array(outputs["pixel_values"]))
    question = {"images": row["images"], "messages": [{"role": "user", "content": row["prefix"]}]}
    asked = format_sample({**question, "messages": [*question["messages"], {"role": "assistant", "content": "yes"}]})
    assert encode.prompt(attrs.evolve(asked, turns=asked.turns[:1])) == "<image><image>answer en Well?"


def test_rows_that_paligemma_cannot_read(encoder: Encoding) -> None:
    """Rows without images, with several turns or a system prompt are refused, and so is learning the prompt."""
    encode = encoder("paligemma", train_on_completions=True)
    turns = [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": "yes"}]

    assert refused(encode, {"messages": turns}).startswith("rows row 3: the row has no image")
    for messages in (turns * 2, [{"role": "system", "content": "Read."}, *turns]):
        message = refused(encode, {"image": picture(0), "messages": messages})
        assert message.startswith("rows row 3: the chat template refuses the conversation: PaliGemma answers one")
    with pytest.raises(ModelError, match=r"^data\.train_on_completions: .*set it to true"):
        encoder("paligemma")


def test_rows_of_paligemma_are_cut_with_their_types(encoder: Encoding) -> None:
    """A row is cut in its answer, never in its images."""
    row = {"image": picture(0), "prefix": "Well?", "suffix": "yes or no"}
    whole = encoder("paligemma", train_on_completions=True)(format_sample(row))
    length = len(whole.tokens) - 2
    example = encoder("paligemma", train_on_completions=True, max_seq_length=length)(format_sample(row))

    assert example.tokens.tolist() == whole.tokens[:length].tolist()
    assert example.inputs["token_type_ids"].tolist() == whole.inputs["token_type_ids"][:, :length].tolist()
    assert "max_seq_length=10" in refused(encoder("paligemma", train_on_completions=True, max_seq_length=10), row)


@pytest.mark.parametrize("family", ["paligemma", "paligemma2"])
def test_images_of_paligemma(family: str, checkpoint: Checkpoint, encoder: Encoding) -> None:
    """Every image stands at its tokens, unscaled, in the layers.

    mlx-vlm takes the first image alone (paligemma/vision.py:49), and its features are too large by the root of the
    width over that of 2048 (paligemma/paligemma.py:97).
    """
    backbone = open_backbone(checkpoint(family))
    module = backbone.module
    row = {"images": [picture(0), picture(1)], "prefix": "Well?", "suffix": "yes"}
    example = encoder(family, train_on_completions=True)(format_sample(row))
    features = []
    for pixels in example.inputs["pixel_values"]:
        hidden = module.vision_tower(mx.array(pixels[None]).transpose(0, 2, 3, 1), output_hidden_states=True)[0]
        features.append(module.multi_modal_projector(hidden))
    fields = backbone.embed(collate([example]))[0]

    is_image = example.tokens[:-1] == module.config.image_token_index
    seen = np.array(fields["inputs_embeds"][0, : len(example.tokens) - 1]) * np.float32(96**0.5)
    np.testing.assert_allclose(seen[is_image], np.array(mx.concatenate(features)), rtol=1e-4, atol=1e-5)
    given = {name: mx.array(value) for name, value in example.inputs.items()}
    theirs = module.get_input_embeddings(
        mx.array(example.tokens)[None], given["pixel_values"], mask=mx.ones((1, len(example.tokens)))
    ).inputs_embeds
    assert not mx.any(theirs[0, 16:32]).item()


def test_layers_of_paligemma2_have_masks_of_their_own(checkpoint: Checkpoint, encoder: Encoding) -> None:
    """Every second layer sees the answer through a window, and the prompt sees itself whole in all."""
    backbone = open_backbone(checkpoint("paligemma2"))
    row = {"image": picture(0), "prefix": "Well?", "suffix": "yes or no, the sky"}
    example = encoder("paligemma2", train_on_completions=True)(format_sample(row))
    masks = watch_masks(backbone)
    logits_of(backbone, example)

    first = int(example.supervised.argmax())
    last = len(example.tokens) - 2
    assert len(masks) == 4
    for number, mask in enumerate(masks):
        assert mask[:first, :first].all()
        assert not mask[:first, first:].any()
        assert mask[last, last - 7 : last + 1].all()
        assert mask[last, last - 8] == mask[last, 0] == (number % 2 == 1)
