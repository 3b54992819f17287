"""What mlx-vlm computes otherwise than Gemma's published models, and that vlora does not.

Lines are those of mlx-vlm 0.7.10. The numbers themselves are compared with transformers' in tests/golden.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn
import mlx_vlm
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image

from tests.checkpoints import LARGE_FAMILIES
from tests.checkpoints.layout import write_files
from tests.families import FAMILIES as TINY
from tests.families import build, examples
from vlora import Example, collate, format_sample, models
from vlora.errors import ModelError, SampleError
from vlora.models import Encoder
from vlora.models.families.gemma3n import SharedKeys, padded_as_needed
from vlora.models.families.registry import describe_family
from vlora.models.families.siglip import fix_siglip
from vlora.models.forward.attention_masks import block_mask
from vlora.models.forward.tied_head import TiedHead
from vlora.models.load import loading
from vlora.recipe.schema import DataSection, ModelSection

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
        return backbone.all_logits(batch.tokens, *backbone.embed(batch))[0, : len(example.tokens) - 1]


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


def test_head_of_gemma3_is_its_embedding(checkpoint: Checkpoint) -> None:
    """mlx-vlm holds two copies (gemma3/language.py:266), of which one training would be lost; vlora holds one."""
    loaded, _ = mlx_vlm.load(str(checkpoint("gemma3")))
    backbone = open_backbone(checkpoint("gemma3"))
    language = backbone.module.language_model

    assert mx.array_equal(loaded.language_model.lm_head.weight, language.model.embed_tokens.weight)
    assert isinstance(language.lm_head, TiedHead)
    assert not any("lm_head" in name for name, _ in tree_flatten(backbone.module.parameters()))
    hidden = mx.random.normal((2, 96))
    before = language.lm_head(hidden)
    assert mx.allclose(before, loaded.language_model.lm_head(hidden), atol=1e-5)
    language.model.embed_tokens.weight = language.model.embed_tokens.weight * 2
    assert mx.allclose(language.lm_head(hidden), 2 * before, atol=1e-5)


def test_head_that_differs_stays(checkpoint: Checkpoint) -> None:
    """A head with weights of its own (quantized otherwise, say) is left as it is."""
    module, _ = mlx_vlm.load(str(checkpoint("gemma3")))
    module.language_model.lm_head.weight = module.language_model.lm_head.weight + 1
    describe_family("gemma3").forward.fix_weights(module)

    assert isinstance(module.language_model.lm_head, nn.Linear)


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


@pytest.mark.parametrize("family", ["gemma3", "paligemma"])
def test_epsilon_of_the_last_norm(family: str, checkpoint: Checkpoint) -> None:
    """The tower's last norm has the configured epsilon, not MLX's (gemma3/vision.py:87, paligemma/vision.py:87)."""
    module, _ = mlx_vlm.load(str(checkpoint(family)))
    norm = module.vision_tower.vision_model.post_layernorm

    assert norm.eps == 1e-5
    fix_siglip(module)
    assert norm.eps == module.config.vision_config.layer_norm_eps == 1e-6


# ---------------------------------------------------------------------------------------------
# Gemma 4


def test_layers_of_gemma4_have_masks_of_their_own(checkpoint: Checkpoint, encoder: Encoding) -> None:
    """An image sees itself whole in the sliding layers of large models, within the window, and nowhere else.

    mlx-vlm lets it in the full layers too, and beyond the window (gemma4/language.py:546).
    """
    for family, looks_ahead in (("gemma4", False), ("gemma4_moe", True)):
        backbone = open_backbone(checkpoint(family))
        example = encode_row(encoder(family), 1)
        masks = watch_masks(backbone)
        logits_of(backbone, example)

        places = np.flatnonzero(example.tokens == backbone.module.config.image_token_id)
        first, last = places[0], places[-1]
        window = backbone.module.config.text_config.sliding_window
        assert last - first > window
        for mask, kind in zip(masks, backbone.module.config.text_config.layer_types, strict=True):
            is_sliding = kind == "sliding_attention"
            assert mask[first, last] == (is_sliding and looks_ahead)
            assert not mask[last, last + 1]
            assert mask[last, last - window + 1]
            assert mask[last, last - window] == mask[last, first] == (not is_sliding)


def test_constants_of_gemma4_are_not_trained(checkpoint: Checkpoint) -> None:
    """What transformers holds as buffers stays as it is: layers' scalars, bounds, what standardizes features."""
    backbone = open_backbone(checkpoint("gemma4"))
    models.unfreeze_language(backbone)
    models.unfreeze_vision(backbone)

    trained = {name for name, _ in tree_flatten(backbone.module.trainable_parameters())}
    left = {name.rpartition(".")[2] for name, _ in tree_flatten(backbone.module.parameters()) if name not in trained}
    assert left == {"layer_scalar", "std_bias", "std_scale", "input_min", "input_max", "output_min", "output_max"}


def test_layers_inputs_of_images_are_padding(checkpoint: Checkpoint, encoder: Encoding) -> None:
    """The layers' own inputs of an image are those of the padding token, and do not train them."""
    backbone = open_backbone(checkpoint("gemma4"))
    table = backbone.module.language_model.model.embed_tokens_per_layer
    table.unfreeze()
    example = encode_row(encoder("gemma4"), 1)
    batch = collate([example])
    features, _ = backbone.embed(batch)
    cotangents = {name: mx.ones_like(value) for name, value in features.items()}
    (gradient,) = backbone.embed_vjp(batch, cotangents).values()

    tokens = example.tokens[:-1]
    is_image = tokens == backbone.module.config.image_token_id
    padding = (table.weight[0] * 32**0.5).reshape(6, 32)
    assert is_image.any()
    for layers in np.array(features["per_layer_inputs"][0, : len(tokens)])[is_image]:
        np.testing.assert_allclose(layers, np.array(padding), rtol=1e-6)
    moved = np.flatnonzero(np.abs(np.array(gradient)).max(axis=1))
    assert set(moved) == set(tokens[~is_image].tolist())


# ---------------------------------------------------------------------------------------------
# PaliGemma


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


# ---------------------------------------------------------------------------------------------
# Gemma 3n


@pytest.fixture(scope="module")
def gemma3n() -> models.MlxVlmBackbone:
    tiny = TINY["gemma3n"]
    return loading.prepare(build(tiny), describe_family("gemma3n"), ModelSection(path="gemma3n"))[0]


def test_row_of_gemma3n(tmp_path: Path) -> None:
    """Every image is scaled to 768 pixels and stands as 256 tokens between line breaks; only the answer is learned."""
    write_files(LARGE_FAMILIES["gemma3n"], tmp_path)
    section = ModelSection(path=str(tmp_path))
    files = models.find_model(section)
    data = DataSection(path="rows", train_on_completions=True)
    encode = models.make_encoder(models.load_processor(files, section), files.config, files.family, data)
    example = encode_row(encode, 2)

    image = "<start_of_image>" + "<image_soft_token>" * 256 + "<end_of_image>"
    text = encode.tokenizer.decode(example.tokens)
    assert text.startswith(f"<bos><start_of_turn>user\n\n\n{image}\n\n\n\n{image}\n\nWhat is it?<end_of_turn>")
    assert encode.tokenizer.decode(example.tokens[example.supervised]) == "a red square<end_of_turn>"
    assert example.placeholders.sum() == 512
    pixels = [np.asarray(picture(seed).resize((768, 768), Image.Resampling.BILINEAR)) / 255 for seed in range(2)]
    np.testing.assert_allclose(example.inputs["pixel_values"], np.stack(pixels).transpose(0, 3, 1, 2), atol=1e-6)


def test_text_of_gemma3n_is_scaled(gemma3n: models.MlxVlmBackbone) -> None:
    """Text is multiplied by the root of the width, which mlx-vlm leaves out with a prompt (gemma3n/gemma3n.py:122)."""
    *_, text = examples(TINY["gemma3n"])
    tokens = mx.array(text.tokens)[None]
    embeds = gemma3n.embed(collate([text]))[0]["inputs_embeds"][:, : len(text.tokens) - 1]
    theirs = gemma3n.module.get_input_embeddings(tokens).inputs_embeds[:, :-1]

    np.testing.assert_allclose(np.array(embeds), 8 * np.array(theirs), rtol=1e-6)
    language = gemma3n.module.language_model
    with_ids = language(tokens, cache=[SharedKeys() for _ in range(4)]).logits[0, :-1]
    np.testing.assert_allclose(np.array(logits_of(gemma3n, text)), np.array(with_ids), rtol=1e-4, atol=1e-4)


def test_images_of_gemma3n_are_read_along_rows(gemma3n: models.MlxVlmBackbone) -> None:
    """What is at the top right of an image is its second feature of four; mlx-vlm's third (gemma3n/vision.py:102)."""
    module = gemma3n.module
    features = [mx.random.normal((1, 4, 4, 24)), mx.random.normal((1, 2, 2, 32))]
    changed = mx.array(features[0])
    changed[:, :2, 2:] = 0

    def places(module: nn.Module) -> list[int]:
        def tower(pixels: mx.array, **_: object) -> mx.array:
            return module.vision_tower.timm_model.msfa([pixels, features[1]])

        before, after = (
            module.get_image_features(pixels, tower, module.config, module.embed_vision)
            for pixels in (features[0], changed)
        )
        return np.flatnonzero(np.abs(np.array(before - after)).max(axis=(0, 2))).tolist()

    assert places(module) == [2]
    with gemma3n.family.forward.embed_overrides(module):
        assert places(module) == [1]
    assert places(module) == [2]


def test_keys_of_gemma3n_tower_are_padded_last() -> None:
    """A kernel that adds up is seen to begin at the first pixel, and to run over the last one."""
    convolution = nn.Conv2d(1, 1, 3, stride=2, padding=1, bias=False)
    convolution.weight = mx.ones_like(convolution.weight)
    image = mx.arange(16).reshape(1, 4, 4, 1).astype(mx.float32)

    found = padded_as_needed(convolution)(image)[0, :, :, 0].tolist()

    assert found == [[45.0, 39.0], [66.0, 50.0]]
    assert convolution(image)[0, 0, 0, 0] == 0 + 1 + 4 + 5


def test_tower_of_gemma3n_is_as_it_was(gemma3n: models.MlxVlmBackbone) -> None:
    """Its norms and activations are others while rows are embedded, and mlx-vlm's own again afterwards."""
    tower = gemma3n.module.vision_tower

    def found() -> tuple[set[float], set[bool]]:
        activations = [child for child in tower.modules() if isinstance(child, nn.GELU)]
        x = mx.array([1.0])
        exact = {bool(mx.allclose(child(x), nn.gelu(x), atol=1e-5)) for child in activations}
        return {child.eps for child in tower.modules() if hasattr(child, "eps")}, exact

    before = found()
    with gemma3n.family.forward.embed_overrides(gemma3n.module):
        assert found() == ({1e-6}, {False})

    assert before == found() == ({1e-5, 1e-6}, {True})


def test_layers_of_gemma3n_share_keys(gemma3n: models.MlxVlmBackbone) -> None:
    """The last layers read the keys of earlier ones, rotated alike; without a cache they would use their own."""
    *_, text = examples(TINY["gemma3n"])
    before = logits_of(gemma3n, text)
    language = gemma3n.module.language_model
    own = language(mx.array(text.tokens)[None]).logits[0, :-1]
    held = [layer.self_attn.k_proj.weight for layer in language.model.layers[4:]]
    try:
        for layer in language.model.layers[4:]:
            layer.self_attn.k_proj.weight = layer.self_attn.k_proj.weight + 1
        after = logits_of(gemma3n, text)
    finally:
        for layer, weight in zip(language.model.layers[4:], held, strict=True):
            layer.self_attn.k_proj.weight = weight

    assert mx.array_equal(before, after)
    assert float(mx.abs(before - own).max()) > 0.1


def test_coefficients_of_gemma3n_are_kept(gemma3n: models.MlxVlmBackbone) -> None:
    """A forward neither clips AltUp's weights nor changes their type (gemma3n/language.py:249, :278)."""
    *_, text = examples(TINY["gemma3n"])
    altup = gemma3n.module.language_model.model.layers[0].altup
    held = altup.prediction_coefs.weight
    altup.prediction_coefs.weight = (500 * held).astype(mx.bfloat16)
    try:
        mx.eval(logits_of(gemma3n, text))
        kept = altup.prediction_coefs.weight
        gemma3n.module.language_model(mx.array(text.tokens)[None])
        clipped = altup.prediction_coefs.weight
    finally:
        altup.prediction_coefs.weight = held

    assert kept.dtype == mx.bfloat16
    assert float(mx.abs(kept).max()) > 120
    assert (clipped.dtype, mx.abs(clipped).max().item()) == (mx.float32, 120)


def test_padding_of_gemma3n_is_not_trained(gemma3n: models.MlxVlmBackbone) -> None:
    """The layers' own inputs of images are those of the padding token, and do not train them."""
    image, *_ = examples(TINY["gemma3n"])
    table = gemma3n.module.language_model.model.embed_tokens_per_layer
    table.unfreeze()
    backbone = models.MlxVlmBackbone(gemma3n.module, gemma3n.family, gemma3n.language_prefix)
    batch = collate([image])
    features, _ = backbone.embed(batch)
    (gradient,) = backbone.embed_vjp(batch, {name: mx.ones_like(v) for name, v in features.items()}).values()
    table.freeze()

    moved = np.flatnonzero(np.abs(np.array(gradient)).max(axis=1))
    assert set(moved) == {token for token in image.tokens.tolist() if token < 128}
