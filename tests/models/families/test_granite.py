"""Rows of Granite with several images, and the numbers of its tower and connectors."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from tests.families import FAMILIES, build, examples
from vlora import models
from vlora.adapters.targets import resolve_target_modules
from vlora.models.families.registry import describe_family
from vlora.models.load.loading import prepare
from vlora.recipe.schema import LoraSection, ModelSection


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


def test_granite4_computes_siglip_s_activation() -> None:
    """The tower computes SigLIP's GELU while a row is embedded, and mlx-vlm's own before and after."""
    module = build(FAMILIES["granite4_vision"])
    mlp = module.vision_tower.vision_model.encoder.layers[0].mlp
    seen = []

    class Seen(type(mlp.activation_fn)):  # type: ignore[misc]
        def __call__(self, x: mx.array) -> mx.array:
            found = super().__call__(x)
            seen.append((np.array(x), np.array(found)))
            return found

    mlp.activation_fn.__class__ = Seen
    example = examples(FAMILIES["granite4_vision"])[0]
    inputs = {key: mx.array(value) for key, value in example.inputs.items()}
    describe_family("granite4_vision").forward.embed(module, mx.array(example.tokens)[None], inputs)
    ((given, found),) = seen

    assert np.allclose(found, np.array(nn.gelu_approx(mx.array(given))), atol=1e-6)
    assert mlp.activation_fn._approx == "fast"


def test_granite4_has_the_published_epsilon_in_its_connectors() -> None:
    """Their norms have that of BLIP-2's transformer."""
    backbone, _ = prepare(
        build(FAMILIES["granite4_vision"]), describe_family("granite4_vision"), ModelSection(path="granite4_vision")
    )
    norms = [
        module
        for projector in (*backbone.module.layerwise_projectors, *backbone.module.spatial_projectors)
        for _, module in projector.qformer.named_modules()
        if isinstance(module, nn.LayerNorm)
    ]

    assert len(norms) == 4 * 6
    assert {norm.eps for norm in norms} == {1e-12}


def test_granite4_s_pooling_head_gets_no_adapter() -> None:
    """Nothing reads what it makes, and transformers has no layer of its own for a part of it."""
    backbone, _ = prepare(
        build(FAMILIES["granite4_vision"]), describe_family("granite4_vision"), ModelSection(path="granite4_vision")
    )
    assert isinstance(backbone, models.MlxVlmBackbone)
    names = resolve_target_modules(backbone.module, backbone.layout, LoraSection(targets=("vision",)))

    assert any(".encoder.layers.0." in name for name in names)
    assert not any(".head." in name for name in names)
