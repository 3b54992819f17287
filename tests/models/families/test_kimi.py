"""Kimi's towers and mixtures: what vlora computes otherwise than mlx-vlm, and that nothing stale is kept."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from tests.families import FAMILIES, build, examples
from tests.models.families.test_tiles import Encoding, encode_images, picture
from tests.prove import Subject, make_subject
from vlora import collate, make_optimizer, make_train_step
from vlora.models.families.kimi import match_reference_moonvit, match_reference_moonvit_3d
from vlora.models.load import loading
from vlora.recipe.schema import OptimSection
from vlora.train.state import bind


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


def trained(subject: Subject, steps: int) -> None:
    """Take compiled steps of gradient descent and put the weights into the model."""
    step = make_train_step(subject.backbone, make_optimizer(OptimSection(name="sgd")))
    state = subject.state
    for _ in range(steps):
        state, _ = step(state, collate(subject.examples), 0.1)
    bind(subject.backbone, state)
    subject.state = state


def answered(module: nn.Module) -> np.ndarray:
    """Logits of a few words."""
    tokens = mx.array([[5, 6, 7, 8]])
    embeds = module.get_input_embeddings(tokens, None).inputs_embeds
    return np.array(module.language_model(tokens, inputs_embeds=embeds, cache=None).logits)


def test_kimi_k3_answers_with_the_weights_of_now_between_steps() -> None:
    """What its layers keep of their weights is neither a tracer nor of before."""
    subject = make_subject("kimi_k3", full=True)
    for steps in (1, 2):
        trained(subject, steps)
        with loading.generating(subject.backbone) as module:
            found = answered(module)
            fresh = build(FAMILIES["kimi_k3"])
            fresh.load_weights(list(subject.state.params.items()), strict=False)
            fresh.eval()
            np.testing.assert_allclose(found, answered(fresh), rtol=1e-4, atol=1e-4)


def test_kimi_k3_keeps_projections_that_are_read_directly_as_they_are() -> None:
    """Neither adapters nor packed weights where the model takes a layer's weights itself."""
    subject = make_subject("kimi_k3", bits=4)
    for name, module in subject.backbone.module.named_modules():
        if name.endswith("res_proj"):
            assert type(module) is nn.Linear, name


def test_moonvit(model: Callable[[str], nn.Module], encoder: Encoding) -> None:
    """Kimi-VL's tower is another one while it embeds, differentiable in its positions, and what it was afterwards."""
    module = model("kimi_vl")
    example = encode_images(encoder("kimi_vl"), picture(0, 60, 90), picture(1, 64, 30))
    pixels, grids = (mx.array(example.inputs[name]) for name in ("pixel_values", "image_grid_hws"))

    def features(module: nn.Module) -> mx.array:
        return mx.concatenate([part.flatten() for part in module.vision_tower(pixels.transpose(0, 2, 3, 1), grids)])

    before = features(module)
    with match_reference_moonvit(module):
        corrected = features(module)
        gradients = dict(
            tree_flatten(nn.value_and_grad(module, lambda module: mx.sum(mx.sin(features(module))))(module)[1])
        )

    assert 1e-4 < float(mx.abs(corrected - before).max()) < 0.1
    assert mx.array_equal(features(module), before)
    assert all(float(mx.abs(value).max()) > 0 for name, value in gradients.items() if name.startswith("vision_tower"))
