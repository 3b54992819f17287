"""Corrections of single families on their tiny models: what they change, and that nothing stays changed."""

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from tests.families import FAMILIES, build, examples
from vlora import collate
from vlora.models.backbone.embed import to_device
from vlora.models.backbone.startup_checks import check_family
from vlora.models.families.expanding import expand_features
from vlora.models.families.internvl import match_reference_intern_vit
from vlora.models.families.kimi import match_reference_moonvit_3d
from vlora.models.families.registry import describe_family
from vlora.models.forward.lm_inputs import LOGIT_PLACES
from vlora.models.load.loading import prepare
from vlora.models.load.unfreeze import unfreeze_language
from vlora.recipe.schema import ModelSection


def embed(name: str, module: nn.Module, row: int = 1) -> mx.array:
    """Embed one row of a tiny family as mlx-vlm itself does."""
    example = examples(FAMILIES[name])[row]
    inputs = {key: to_device(value) for key, value in example.inputs.items()}
    embeds: mx.array = module.get_input_embeddings(mx.array(example.tokens)[None], **inputs).inputs_embeds
    return embeds


def test_intern_vit_has_the_exact_activation() -> None:
    """InternVL's tower computes the exact GELU while it embeds, and mlx-vlm's own before and after."""
    module = build(FAMILIES["internvl_chat"])
    mlp = module.vision_model.encoder.layers[0].mlp
    x = mx.linspace(-3, 3, 64).reshape(2, 32)
    before = mlp(x)
    hidden = mlp.fc1(x)
    exact = mlp.fc2(hidden * (1 + mx.erf(hidden / 2**0.5)) / 2)
    with match_reference_intern_vit(module):
        corrected = mlp(x)

    assert np.allclose(np.array(corrected), np.array(exact), atol=1e-6)
    assert mx.array_equal(mlp(x), before)
    assert not np.allclose(np.array(before), np.array(exact), atol=1e-6)


def test_kimi_tower() -> None:
    """Kimi K2.5's tower is another one while it embeds, differentiable in its positions, and what it was afterwards."""
    module = build(FAMILIES["kimi_k25"])
    example = examples(FAMILIES["kimi_k25"])[1]
    pixels, grids = (mx.array(example.inputs[name]) for name in ("pixel_values", "image_grid_hws"))

    def features(module: nn.Module) -> mx.array:
        return mx.concatenate([part.flatten() for part in module.vision_tower(pixels.transpose(0, 2, 3, 1), grids)])

    before = features(module)
    with match_reference_moonvit_3d(module):
        corrected = features(module)
        gradients = dict(
            tree_flatten(nn.value_and_grad(module, lambda module: mx.sum(mx.sin(features(module))))(module)[1])
        )

    assert float(mx.abs(corrected - before).max()) > 1e-4
    assert mx.array_equal(features(module), before)
    assert all(float(mx.abs(value).max()) > 0 for name, value in gradients.items() if name.startswith("vision_tower"))


def test_mistral_large_sees_its_images() -> None:
    """The language model reads the embeddings that it is given; mlx-vlm's own call drops them."""
    module = build(FAMILIES["mistral_large3"])
    family = describe_family("mistral_large3")
    example = examples(FAMILIES["mistral_large3"])[0]
    tokens = mx.array(example.tokens)[None]
    embeds = mx.array(embed("mistral_large3", module, 0))
    own = module.language_model(tokens, inputs_embeds=embeds).logits
    dropped = module.language_model(tokens).logits
    seen = family.forward.forward(module, tokens, {"inputs_embeds": embeds})

    assert mx.array_equal(own, dropped)
    assert float(mx.abs(seen - dropped).max()) > 1e-2


def test_answers_of_unlimited_ocr_see_what_they_see_when_they_are_generated() -> None:
    """The logits of a long answer, all at once, are those of mlx-vlm's generation, token by token from a cache."""
    module = build(FAMILIES["unlimited_ocr"])
    module.eval()
    family = describe_family("unlimited_ocr")
    example = examples(FAMILIES["unlimited_ocr"])[1]
    tokens = mx.array(example.tokens)[None]
    embeds = embed("unlimited_ocr", module, 1)
    first = int(np.flatnonzero(example.supervised)[0])
    cache = module.make_cache()
    generated = [module.language_model(tokens[:, :first], inputs_embeds=embeds[:, :first], cache=cache).logits[0, -1]]
    for place in range(first, tokens.shape[1]):
        step = slice(place, place + 1)
        output = module.language_model(tokens[:, step], inputs_embeds=embeds[:, step], cache=cache)
        generated.append(output.logits[0, -1])
    inputs = {"inputs_embeds": embeds, **family.forward.label_inputs(example)}
    trained = family.forward.forward(module, tokens, inputs)[0, first - 1 :]
    causal = module.language_model(tokens, inputs_embeds=embeds).logits[0, first - 1 :]

    assert example.supervised.sum() > 2 * module.config.text_config.sliding_window_size
    assert np.allclose(np.array(trained), np.array(mx.stack(generated)), atol=1e-4)
    assert not np.allclose(np.array(causal), np.array(mx.stack(generated)), atol=1e-2)


@pytest.mark.parametrize("name", ["deepseekocr", "deepseekocr_2"])
def test_one_image_in_a_row(name: str) -> None:
    """A second image in a row is an error, not features in the wrong places."""
    views = [mx.zeros((1, 3, 8, 8)), mx.zeros((2, 3, 8, 8))]
    with pytest.raises(ValueError, match="2 images"):
        describe_family(name).forward.embed(nn.Module(), mx.array([[1]]), {"pixel_values": views})


@pytest.mark.parametrize("name", ["granite_vision", "granite4_vision"])
def test_every_image_of_granite_counts_for_itself(name: str) -> None:
    """An image beside another one in a row has the features that it has alone, in its own tokens' places."""
    module = build(FAMILIES[name])
    module.eval()
    example = examples(FAMILIES[name])[1]
    runs = np.flatnonzero(np.diff(np.concatenate([[False], example.placeholders, [False]]).astype(int))).reshape(-1, 2)

    def features(tokens: np.ndarray, image: slice) -> np.ndarray:
        inputs = {key: mx.array(value[image]) for key, value in example.inputs.items()}
        fields = describe_family(name).forward.embed(module, mx.array(tokens)[None], inputs)
        return np.array(mx.stack([fields["inputs_embeds"], *fields.get("deepstack_visual_embeds", [])]))[:, 0]

    together = features(example.tokens, slice(None))

    assert len(runs) == 2
    for number, (start, end) in enumerate(runs):
        alone = features(example.tokens[start:end], slice(number, number + 1))
        assert np.allclose(alone, together[:, start:end], atol=1e-4)


def test_padding_of_patches_is_not_seen() -> None:
    """Phi-4-reasoning-vision's features of an image do not depend on the padding behind its patches."""
    module = build(FAMILIES["phi4_siglip"])
    module.eval()
    example = examples(FAMILIES["phi4_siglip"])[0]
    inputs = {key: mx.array(value) for key, value in example.inputs.items()}
    less = {**inputs, "pixel_values": inputs["pixel_values"][:, :16]}
    tokens = mx.array(example.tokens)[None]
    embeds = describe_family("phi4_siglip").forward.embed

    assert inputs["pixel_values"].shape[1] > 16
    assert mx.array_equal(
        embeds(module, tokens, inputs)["inputs_embeds"], embeds(module, tokens, less)["inputs_embeds"]
    )


def test_expanded_images() -> None:
    """Images take the place of their tokens, each with as many features as it has; logits stand behind their tokens."""
    table = nn.Embedding(8, 4)
    images = [mx.full((3, 4), 1.0), mx.full((2, 4), 2.0)]
    fields = expand_features(table, mx.array([[5, -1, 6, -1, 7]]), images, -1)
    embeds = fields["inputs_embeds"][0]

    assert fields[LOGIT_PLACES].tolist() == [[0, 3, 4, 6, 7]]
    assert mx.array_equal(embeds[1:4], images[0])
    assert mx.array_equal(embeds[5:7], images[1])
    assert mx.array_equal(embeds[mx.array([0, 4, 7])], table(mx.array([5, 6, 7])))
    with pytest.raises(ValueError, match="2 image tokens stand for 1 images"):
        expand_features(table, mx.array([[5, -1, -1]]), images[:1], -1)


@pytest.mark.parametrize("name", ["phi4mm", "unlimited_ocr", "granite4_vision", "deepseekocr"])
def test_first_rows_are_probed(name: str) -> None:
    """The checks before a run let a family through that holds, wherever its tokens stand within the model."""
    backbone, _ = prepare(build(FAMILIES[name]), describe_family(name), ModelSection(path=name))

    check_family(backbone, examples(FAMILIES[name]), name)


@pytest.mark.parametrize("name", ["molmo2", "molmo_point"])
def test_image_tokens_of_molmo_see_each_other(name: str) -> None:
    """Another last image token changes what is predicted at the first one, and nothing before it."""
    backbone, _ = prepare(build(FAMILIES[name]), describe_family(name), ModelSection(path=name))
    batch = collate(examples(FAMILIES[name])[1:2])
    differentiable, auxiliary = backbone.embed(batch)
    marked = np.flatnonzero(np.array(auxiliary["blocks"][0]))
    first, last = int(marked[0]), int(marked[-1])
    embeds = differentiable["inputs_embeds"]
    changed = mx.concatenate([embeds[:, :last], embeds[:, :1], embeds[:, last + 1 :]], axis=1)
    before, after = (
        np.array(backbone.all_logits(batch.tokens, {**differentiable, "inputs_embeds": each}, auxiliary)[0])
        for each in (embeds, changed)
    )

    assert first > 0
    assert np.allclose(before[:first], after[:first], atol=1e-5)
    assert np.abs(before[first] - after[first]).max() > 1e-4


def test_features_of_jina_stand_where_mlx_vlm_puts_them() -> None:
    """One image's features are added at the places at which mlx-vlm adds them, one by one."""
    module = build(FAMILIES["jina_vlm"])
    module.eval()
    example = examples(FAMILIES["jina_vlm"])[0]
    inputs = {key: to_device(value) for key, value in example.inputs.items()}
    found = describe_family("jina_vlm").forward.embed(module, mx.array(example.tokens)[None], inputs)["inputs_embeds"]

    assert np.allclose(np.array(found), np.array(embed("jina_vlm", module, 0)), atol=1e-5)


def test_falcon_reads_one_image_as_mlx_vlm_does() -> None:
    """With one image, logits are those of mlx-vlm's own call; a second one's patches have places too."""
    module = build(FAMILIES["falcon_ocr"])
    module.eval()
    family = describe_family("falcon_ocr")
    one, two, _ = examples(FAMILIES["falcon_ocr"])
    tokens = mx.array(one.tokens)[None]
    inputs = {key: to_device(value) for key, value in one.inputs.items()}
    found = family.forward.forward(module, tokens, family.forward.embed(module, tokens, inputs))
    own = module(tokens, **inputs).logits
    second = family.forward.embed(
        module, mx.array(two.tokens)[None], {key: to_device(value) for key, value in two.inputs.items()}
    )
    places = np.array(second["pos_hw"][0])[two.tokens == module.config.img_id]

    assert np.allclose(np.array(found), np.array(own), atol=1e-4)
    assert np.array_equal(places[: len(places) // 2], places[len(places) // 2 :])
    assert places.any()


@pytest.mark.parametrize(
    ("name", "language"),
    [("falcon_ocr", "language_model."), ("molmo_point", "lm."), ("phi3_v", "model.")],
)
def test_full_finetuning_keeps_to_the_language_model(name: str, language: str) -> None:
    """Towers within the language model, or models around it, do not train with it; nor do tables of angles."""
    family = describe_family(name)
    backbone, _ = prepare(build(FAMILIES[name]), family, ModelSection(path=name))
    unfreeze_language(backbone)
    trained = [key for key, _ in tree_flatten(backbone.module.trainable_parameters())]

    assert trained
    assert not [key for key in trained if key.startswith(family.parts.beside_language or "?")]
    assert not [key for key in trained if key.rpartition(".")[2] in family.parts.tables]
    assert not [key for key in trained if not key.startswith((language, "lm_head."))]
