"""Llama 4 computes what was published, where mlx-vlm does otherwise."""

import attrs
import mlx.core as mx
import numpy as np

from tests.families import FAMILIES, build
from vlora.models.families.llama4 import match_reference_llama4_norms, match_reference_llama4_tower


def test_llama4_has_the_exact_activation() -> None:
    """The tower and its projector compute the exact GELU while they embed, and mlx-vlm's own before and after."""
    module = build(FAMILIES["llama4"])
    x = mx.linspace(-3, 3, 64).reshape(2, 32)
    mlp = module.vision_model.model.layers[0].mlp
    before, hidden = mlp(x), mlp.fc1(x)
    exact = mlp.fc2(hidden * (1 + mx.erf(hidden / 2**0.5)) / 2)
    with match_reference_llama4_tower(module):
        corrected = mlp(x)
        assert module.vision_model.vision_adapter.mlp.activation_fn._approx == "none"

    assert np.allclose(np.array(corrected), np.array(exact), atol=1e-6)
    assert mx.array_equal(mlp(x), before)
    assert not np.allclose(np.array(before), np.array(exact), atol=1e-6)


def test_llama4_normalizes_queries_and_keys_with_the_configured_epsilon() -> None:
    """The first layer's keys differ from mlx-vlm's where the configured epsilon is another, and only there."""
    tiny = FAMILIES["llama4"]
    for epsilon, is_equal in ((1e-6, True), (10.0, False)):
        config = {**tiny.config, "text_config": {**tiny.config["text_config"], "rms_norm_eps": epsilon}}
        attention = build(attrs.evolve(tiny, config=config))
        layer = attention.language_model.model.layers[0].self_attn
        x = mx.random.normal((1, 5, 64), key=mx.random.key(0))
        before = layer(x)
        with match_reference_llama4_norms(attention):
            corrected = layer(x)

        assert mx.array_equal(corrected, before) == is_equal
        assert mx.array_equal(layer(x), before)


def test_llama4_scales_queries_as_published() -> None:
    """With an epsilon far above their squares, queries are nearly those that were rotated, divided by its root."""
    tiny = FAMILIES["llama4"]
    config = {**tiny.config, "text_config": {**tiny.config["text_config"], "rms_norm_eps": 1e6}}
    module = build(attrs.evolve(tiny, config=config))
    layer = module.language_model.model.layers[0].self_attn
    x = mx.random.normal((1, 4, 5, 16), key=mx.random.key(0))
    rotated = layer.rope(x, offset=2)
    with match_reference_llama4_norms(module):
        normalized = layer.rope(x, offset=2)

    assert np.allclose(np.array(normalized), np.array(rotated) / 1e3, rtol=1e-4)
