"""What mlx-vlm computes otherwise than the published Gemma 3n, and vlora does not."""

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from PIL import Image

from tests.checkpoints import LARGE_FAMILIES
from tests.checkpoints.layout import write_files
from tests.families import FAMILIES as TINY
from tests.families import build, examples
from tests.models.families.test_gemma import encode_row, logits_of, picture
from vlora import collate, models
from vlora.models.families.gemma3n import SharedKeys, padded_as_needed
from vlora.models.families.registry import describe_family
from vlora.models.load import loading
from vlora.recipe.schema import DataSection, ModelSection


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
