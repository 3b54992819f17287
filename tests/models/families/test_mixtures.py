"""Corrections of the large mixtures of experts: nothing stale is kept, routers and odd parts are told."""

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten
from mlx_vlm.models.cache import make_prompt_cache

from tests.families import FAMILIES, build, mixtures, sparse
from tests.prove import Subject, logits, make_subject, unbatched
from vlora import collate, make_optimizer, make_train_step
from vlora.adapters.attached import lora_layers
from vlora.models.backbone.embed import to_device
from vlora.models.load import loading
from vlora.recipe.schema import OptimSection
from vlora.train.state import bind


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


@pytest.mark.parametrize("family", ["zaya1_vl", "step3p7", "kimi_k3"])
def test_routers_get_no_adapters(family: str) -> None:
    """Not even a layer within a router, as ZAYA1's is made of several."""
    names = [name for name, _ in lora_layers(make_subject(family).backbone.module)]
    assert names
    assert not [name for name in names if {"gate", "router"} & set(name.split("."))]


def test_parts_without_a_constructor_are_completed() -> None:
    """MiMo-V2's hearing forgets to say that it is a module."""
    module = build(FAMILIES["mimo_v2"])
    with pytest.raises(AttributeError):
        module.freeze()
    loading.complete_modules(module)
    module.freeze()
    assert not tree_flatten(module.trainable_parameters())


@pytest.mark.parametrize("family", ["deepseek_v4", "minimax_m3_vl", "zaya1_vl"])
def test_what_only_chooses_is_not_trained(family: str) -> None:
    """Indexers, tables of experts and balancing biases have no gradient; the decay of weights would take them away."""
    adapted = [name for name, _ in lora_layers(make_subject(family).backbone.module)]
    trained = make_subject(family, full=True).state.params
    chooses = ("indexer", "index_", "tid2eid", "e_score_correction_bias", "bias_vl", "balancing_biases")

    assert not [name for name in [*adapted, *trained] if any(part in name for part in chooses)]
    everything = [name for name, _ in tree_flatten(build(FAMILIES[family]).language_model.parameters())]
    assert [name for name in everything if any(part in name for part in chooses)]


@pytest.mark.parametrize("family", ["inkling"])
def test_metal_kernels_without_gradients_are_not_taken_in_training(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that says it has Metal, the model asks for its kernels, which are not here; the step does not."""
    subject = make_subject(family)
    expected = logits(subject, subject.examples)
    batch = collate(subject.examples)
    differentiable, auxiliary = subject.backbone.embed(batch)
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)

    with pytest.raises((RuntimeError, ValueError)):
        mx.eval(subject.backbone.all_logits(batch.tokens, differentiable, auxiliary))
    np.testing.assert_array_equal(logits(subject, subject.examples), expected)
    assert mx.metal.is_available()


@pytest.mark.parametrize("family", [*mixtures.FAMILIES, *sparse.FAMILIES])
def test_rows_have_the_logits_that_generation_computes(family: str) -> None:
    """mlx-vlm's own forward of the whole model, with its caches, on one row as its processor writes it."""
    subject = make_subject(family)
    bind(subject.backbone, subject.state)
    for example in subject.examples:
        inputs = {name: to_device(value) for name, value in example.inputs.items()}
        pixels = inputs.pop("pixel_values", None)
        tokens = mx.array(example.tokens)[None]
        with loading.generating(subject.backbone) as module:
            own = module(tokens, pixels, mask=None, cache=make_prompt_cache(module.language_model), **inputs).logits[0]
        np.testing.assert_allclose(unbatched(subject, example), np.array(own), rtol=1e-4, atol=1e-4)
