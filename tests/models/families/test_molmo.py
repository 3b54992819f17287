"""Molmo's image tokens see each other, and its tower has the published activation."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from tests.families import FAMILIES, build, examples
from vlora import collate
from vlora.models.families.molmo import match_reference_molmo2
from vlora.models.families.registry import describe_family
from vlora.models.load.loading import prepare
from vlora.recipe.schema import ModelSection


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


def test_molmo2_has_the_published_activation() -> None:
    """The tower computes the GELU by tanh while it embeds, and mlx-vlm's own before and after."""
    module = build(FAMILIES["molmo2"])
    mlp = module.vision_tower.image_vit.transformer[0].feed_forward
    x = mx.linspace(-3, 3, 64).reshape(2, 32)
    before, published = mlp(x), mlp.w2(nn.gelu_approx(mlp.w1(x)))
    with match_reference_molmo2(module):
        corrected = mlp(x)

    assert np.allclose(np.array(corrected), np.array(published), atol=1e-6)
    assert mx.array_equal(mlp(x), before)
    assert not np.allclose(np.array(before), np.array(published), atol=1e-5)
