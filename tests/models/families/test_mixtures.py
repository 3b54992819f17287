"""Corrections of the large mixtures of experts: nothing stale is kept, routers and odd parts are told."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_vlm.models.cache import make_prompt_cache

from tests.families import FAMILIES, build, mixtures, sparse
from tests.prove import make_subject, unbatched
from vlora.adapters.attached import lora_layers
from vlora.models.backbone.embed import to_device
from vlora.models.families.registry import describe_family
from vlora.models.load import loading
from vlora.train.state import bind


@pytest.mark.parametrize("family", ["zaya1_vl", "step3p7", "kimi_k3"])
def test_routers_get_no_adapters(family: str) -> None:
    """Not even a layer within a router, as ZAYA1's is made of several."""
    names = [name for name, _ in lora_layers(make_subject(family).backbone.module)]
    assert names
    assert not [name for name in names if {"gate", "router"} & set(name.split("."))]


@pytest.mark.parametrize("family", ["deepseek_v4", "minimax_m3_vl", "zaya1_vl"])
def test_what_only_chooses_is_not_trained(family: str) -> None:
    """Indexers, tables of experts and balancing biases have no gradient; the decay of weights would take them away."""
    adapted = [name for name, _ in lora_layers(make_subject(family).backbone.module)]
    trained = make_subject(family, full=True).state.params
    chooses = ("indexer", "index_", "tid2eid", "e_score_correction_bias", "bias_vl", "balancing_biases")

    assert not [name for name in [*adapted, *trained] if any(part in name for part in chooses)]
    everything = [name for name, _ in tree_flatten(build(FAMILIES[family]).language_model.parameters())]
    assert [name for name in everything if any(part in name for part in chooses)]


@pytest.mark.parametrize(
    "family",
    [name for name in (*mixtures.FAMILIES, *sparse.FAMILIES) if describe_family(name).upstream_differs is None],
)
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
